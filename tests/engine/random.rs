//! Random scripts: every request ends once, with the events that it would get alone.

use super::*;
use proptest::prelude::*;
use proptest::sample::Index;
use raisonne::engine::scheduler::IMPLICIT_DEADLINE;
use raisonne::engine::{Priority, RequestFailure, Thinking, Trie};
use std::collections::BTreeSet;
use std::sync::Arc;

/// One action of a script.
#[derive(Clone, Debug)]
enum Action {
    Request(Box<RequestSpec>),
    Steps(usize),
    Abort(Index),
    Wait(u64),
}

#[derive(Clone, Debug)]
struct RequestSpec {
    kind: RequestKind,
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

/// Prompts that often share a prefix.
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

fn request_kind() -> impl Strategy<Value = RequestKind> {
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

fn spec() -> impl Strategy<Value = RequestSpec> {
    let criticality = prop_oneof![
        Just(Criticality::Sheddable),
        Just(Criticality::Default),
        Just(Criticality::Critical)
    ];
    let milliseconds = prop::option::of(1_u64..60);
    (request_kind(), criticality, milliseconds).prop_map(|(kind, criticality, milliseconds)| {
        RequestSpec { kind, criticality, milliseconds }
    })
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        5 => spec().prop_map(|spec| Action::Request(Box::new(spec))),
        5 => (1_usize..6).prop_map(Action::Steps),
        1 => any::<Index>().prop_map(Action::Abort),
        1 => (1_u64..20).prop_map(Action::Wait),
    ]
}

/// A play that runs a random script.
struct Scenario {
    play: Play,
    aborted: BTreeSet<RequestId>,
    seen_running: BTreeSet<RequestId>,
}

impl Scenario {
    fn act(&mut self, action: Action) {
        match action {
            Action::Request(spec) => self.admit(*spec),
            Action::Steps(count) => (0..count).for_each(|_| {
                self.step();
            }),
            Action::Abort(index) => {
                let live: Vec<_> = self.live().collect();
                if !live.is_empty() {
                    let id = live[index.index(live.len())];
                    self.play.scheduler.abort(id);
                    self.play.scheduler.assert_invariants();
                    self.aborted.insert(id);
                }
            }
            Action::Wait(milliseconds) => {
                self.play.now += Duration::from_millis(milliseconds);
            }
        }
    }

    fn admit(&mut self, spec: RequestSpec) {
        let RequestSpec { kind, criticality, milliseconds } = spec;
        let deadline = milliseconds.map(|milliseconds| self.play.deadline(milliseconds));
        let request = EngineRequest { kind, priority: Priority { criticality, deadline } };
        // The scheduler may be full.
        if let Ok(id) = self.play.scheduler.admit(request.clone(), self.play.now) {
            let (name, arrived) = (format!("{id:?}"), self.play.now);
            let tracked = Tracked { name, request, arrived, events: Vec::new(), last_events: 0 };
            self.play.requests.insert(id, tracked);
            self.play.collect_events();
        }
    }

    fn live(&self) -> impl Iterator<Item = RequestId> {
        let requests = self.play.requests.iter();
        requests
            .filter(|(id, tracked)| tracked.last_events == 0 && !self.aborted.contains(id))
            .map(|(id, _)| *id)
    }

    fn step(&mut self) -> bool {
        let computed = self.play.step();
        let started: Vec<_> =
            self.live().filter(|id| self.play.scheduler.is_running(*id)).collect();
        for id in &started {
            if self.seen_running.insert(*id) {
                self.check_order(*id);
            }
        }
        computed
    }

    /// Whether it runs or has events: its first sample may have ended in its first step.
    fn started(&self, id: RequestId) -> bool {
        self.play.scheduler.is_running(id) || !self.play.requests[&id].events.is_empty()
    }

    /// No request starts before a waiting one that is ahead in the scheduler's order.
    fn check_order(&self, id: RequestId) {
        let order = |id: &RequestId| {
            let Tracked { request, arrived, .. } = &self.play.requests[id];
            let due =
                request.priority.deadline.map_or(*arrived + IMPLICIT_DEADLINE, Deadline::instant);
            (std::cmp::Reverse(request.priority.criticality), due, *id)
        };
        for other in self.live() {
            let started = self.seen_running.contains(&other) || self.started(other);
            assert!(started || order(&other) > order(&id), "{id:?} started before {other:?}");
        }
    }

    fn check(&self) {
        for (id, tracked) in &self.play.requests {
            let (events, expected) = (comparable(&tracked.events), expected(&tracked.request));
            if self.aborted.contains(id) {
                assert_eq!(tracked.last_events, 0, "{id:?} was aborted");
                continue;
            }
            assert_eq!(tracked.last_events, 1, "{id:?} ends once");
            match tracked.events.last() {
                Some(EngineEvent::Failed(failure)) => {
                    assert_eq!(*failure, RequestFailure::DeadlineExceeded);
                }
                _ => assert_eq!(events, expected, "{id:?}"),
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn every_request_ends_once_and_as_it_would_alone(
        actions in prop::collection::vec(action(), 1..40),
        pages in 14_usize..40,
        running_max in 1_usize..6,
        prefill_chunk_max in 1_usize..12,
        samples_on_device: bool,
    ) {
        let runner_limits = RunnerLimits { samples_on_device, ..runner_limits(pages, 4, 14) };
        let play = Play::new(runner_limits, config(running_max, 9, prefill_chunk_max));
        let mut scenario = Scenario { play, aborted: BTreeSet::new(), seen_running: BTreeSet::new() };
        for action in actions {
            scenario.act(action);
        }
        while scenario.step() {
            assert!(scenario.play.steps < 5_000, "it ends");
        }
        assert!(scenario.play.scheduler.is_idle());
        scenario.check();
    }
}
