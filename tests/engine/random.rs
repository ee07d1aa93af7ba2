//! Random scripts: whatever happens, every ask ends once, and as it would alone.

use super::*;
use proptest::prelude::*;
use proptest::sample::Index;
use raisonne::engine::scheduler::PATIENCE;
use raisonne::engine::{Priority, RequestFailure, Thinking, Trie};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Something that happens.
#[derive(Clone, Debug)]
enum Happening {
    Request(Box<Wish>),
    Steps(usize),
    Abort(Index),
    Wait(u64),
}

#[derive(Clone, Debug)]
struct Wish {
    work: RequestKind,
    criticality: Criticality,
    milliseconds: Option<u64>,
}

fn constraint() -> impl Strategy<Value = Constraint> {
    let labels = [vec![4], vec![5, 6], vec![5, 7, 8]];
    let ranked = Constraint::permutation(&labels, &[9, 9]).unwrap();
    let trie = Trie::new(&[vec![10, 1], vec![10, 2], vec![11, 3], vec![12, 4, 4]]).unwrap();
    let entries = Constraint::entries(Arc::new(trie), 3).unwrap();
    let thinking = |close: &[u32]| Thinking {
        tokens_max: 4,
        open: vec![20, 21],
        close: close.to_vec(),
        stop_tokens: vec![END],
    };
    let reasoned = Constraint::think(thinking(&[22, 23]), ranked.clone()).unwrap();
    let free = Constraint::think(thinking(&[22]), Constraint::Free).unwrap();
    prop_oneof![
        3 => Just(Constraint::Free),
        1 => Just(ranked),
        1 => Just(entries),
        1 => Just(reasoned),
        1 => Just(free),
    ]
}

/// Prompts that often begin alike.
fn prompt() -> impl Strategy<Value = Vec<u32>> {
    (0_u32..3, 1_usize..30, 0_u32..4, 0_usize..4)
        .prop_map(|(head, count, tail, more)| [tokens(head, count), tokens(tail, more)].concat())
}

fn sampling() -> impl Strategy<Value = SamplingParams> {
    (0_u64..4, prop_oneof![Just(0.0_f32), Just(0.7), Just(1.0)], 0_usize..9, 0.2_f32..1.2).prop_map(
        |(seed, temperature, top_k, top_p)| SamplingParams {
            temperature,
            top_k,
            top_p: top_p.min(1.0),
            min_p: 0.0,
            seed,
        },
    )
}

fn some_work() -> impl Strategy<Value = RequestKind> {
    let generate = (prompt(), 1_usize..4, 1_usize..6, sampling(), constraint()).prop_map(
        |(prompt, samples, more, sampling, constraint)| {
            let tokens_max = more + constraint.tokens_needed().max(3);
            let (samples, stop_tokens) = (nonzero(samples), vec![END, 1]);
            RequestKind::Generate(GenerateRequest {
                prompt,
                samples,
                tokens_max,
                sampling,
                constraint,
                stop_tokens,
            })
        },
    );
    let branch = (0_u32..5, 1_usize..8).prop_map(|(seed, count)| tokens(seed, count));
    let branches = prop::collection::vec(branch, 1..6);
    let wanted =
        prop_oneof![Just(BranchOutput::HiddenState), Just(BranchOutput::TokenLogits(vec![2, 4]))];
    let weigh = (prompt(), branches, wanted).prop_map(|(trunk, branches, wanted)| {
        RequestKind::Weigh(WeighRequest { trunk, branches, output: wanted })
    });
    prop_oneof![2 => generate, 1 => weigh]
}

fn wish() -> impl Strategy<Value = Wish> {
    let criticality = prop_oneof![
        Just(Criticality::Sheddable),
        Just(Criticality::Default),
        Just(Criticality::Critical)
    ];
    let milliseconds = prop::option::of(1_u64..60);
    (some_work(), criticality, milliseconds).prop_map(|(work, criticality, milliseconds)| Wish {
        work,
        criticality,
        milliseconds,
    })
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        5 => wish().prop_map(|wish| Happening::Request(Box::new(wish))),
        5 => (1_usize..6).prop_map(Happening::Steps),
        1 => any::<Index>().prop_map(Happening::Abort),
        1 => (1_u64..20).prop_map(Happening::Wait),
    ]
}

/// A play in which things happen.
struct Story {
    play: Play,
    aborted: BTreeSet<RequestId>,
    met: BTreeSet<RequestId>,
}

impl Story {
    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Request(wish) => self.ask(*wish),
            Happening::Steps(count) => (0..count).for_each(|_| {
                self.step();
            }),
            Happening::Abort(index) => {
                let live: Vec<_> = self.live().collect();
                if !live.is_empty() {
                    let id = live[index.index(live.len())];
                    self.play.scheduler.abort(id);
                    self.play.scheduler.settle();
                    self.aborted.insert(id);
                }
            }
            Happening::Wait(milliseconds) => {
                self.play.now += Duration::from_millis(milliseconds);
            }
        }
    }

    fn ask(&mut self, wish: Wish) {
        let Wish { work, criticality, milliseconds } = wish;
        let deadline = milliseconds.map(|milliseconds| self.play.deadline(milliseconds));
        let ask = EngineRequest { kind: work, priority: Priority { criticality, deadline } };
        // Being full is as it should be; it is for the scheduler to say.
        if let Ok(id) = self.play.scheduler.admit(ask.clone(), self.play.now) {
            let (name, arrived) = (format!("{id:?}"), self.play.now);
            let asked = Asked { name, ask, arrived, events: Vec::new(), ends: 0 };
            self.play.asks.insert(id, asked);
            self.play.listen();
        }
    }

    fn live(&self) -> impl Iterator<Item = RequestId> {
        let asks = self.play.asks.iter();
        asks.filter(|(id, asked)| asked.ends == 0 && !self.aborted.contains(id)).map(|(id, _)| *id)
    }

    fn step(&mut self) -> bool {
        let going = self.play.step();
        let begun: Vec<_> = self.live().filter(|id| self.play.scheduler.is_running(*id)).collect();
        for id in &begun {
            if self.met.insert(*id) {
                self.check_order(*id);
            }
        }
        going
    }

    /// Whether it runs, or something came of it: its eldest text may have ended in its first step.
    fn begun(&self, id: RequestId) -> bool {
        self.play.scheduler.is_running(id) || !self.play.asks[&id].events.is_empty()
    }

    /// Nobody is started while somebody more urgent has never been.
    fn check_order(&self, id: RequestId) {
        let urgency = |id: &RequestId| {
            let Asked { ask, arrived, .. } = &self.play.asks[id];
            let due = ask.priority.deadline.map_or(*arrived + PATIENCE, Deadline::instant);
            (std::cmp::Reverse(ask.priority.criticality), due, *id)
        };
        for other in self.live() {
            let begun = self.met.contains(&other) || self.begun(other);
            assert!(begun || urgency(&other) > urgency(&id), "{id:?} began before {other:?}");
        }
    }

    fn check(&self) {
        for (id, asked) in &self.play.asks {
            let (events, expected) = (comparable(&asked.events), expected(&asked.ask));
            if self.aborted.contains(id) {
                assert_eq!(asked.ends, 0, "{id:?} was aborted");
                continue;
            }
            assert_eq!(asked.ends, 1, "{id:?} ends once");
            match asked.events.last() {
                Some(EngineEvent::Failed(failure)) => {
                    assert_eq!(*failure, RequestFailure::DeadlineExceeded)
                }
                _ => assert_eq!(events, expected, "{id:?}"),
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn whatever_happens_every_ask_ends_once_and_as_it_would_alone(
        happenings in prop::collection::vec(happening(), 1..40),
        pages in 14_usize..40,
        running_max in 1_usize..6,
        prefill_chunk_max in 1_usize..12,
        draws: bool,
    ) {
        let shape = RunnerLimits { samples_on_device: draws, ..shape(pages, 4, 14) };
        let play = Play::new(shape, limits(running_max, 9, prefill_chunk_max));
        let mut story = Story { play, aborted: BTreeSet::new(), met: BTreeSet::new() };
        for happening in happenings {
            story.happen(happening);
        }
        while story.step() {
            assert!(story.play.steps < 5_000, "it comes to an end");
        }
        assert!(story.play.scheduler.is_idle());
        story.check();
    }
}
