//! Scripted schedules: which sequences each step computes.

use super::*;

fn schedule(mut play: Play) -> String {
    play.run();
    play.check();
    play.log
}

fn due(deadline: Option<Deadline>) -> Priority {
    Priority { deadline, ..Priority::BACKGROUND }
}

#[test]
fn prompts_share_steps_with_decodes() {
    let mut play = Play::new(runner_limits(64, 4, 16), config(4, 8, 8));
    play.admit("A", generate(tokens(1, 30), 4));
    play.admit("B", generate(tokens(2, 5), 4));
    play.step();
    play.admit("C", generate(tokens(3, 20), 2));
    insta::assert_snapshot!(schedule(play), @"
    step 1   prefill A[0..11] B[0..5]                 pages 5/64
    step 2   decode B  prefill A[11..19] C[0..7]      pages 9/64
    step 3   decode B  prefill A[19..27] C[7..14]     pages 13/64
    step 4   decode B  prefill A[27..30] C[14..20]    pages 15/64
    step 5   decode A C                               pages 14/64
    step 6   decode A                                 pages 8/64
    step 7   decode A                                 pages 9/64
    ");
}

#[test]
fn a_computed_prompt_is_found_in_the_prefix_cache() {
    let mut play = Play::new(runner_limits(16, 4, 32), config(4, 8, 32));
    play.admit("A", generate(tokens(1, 16), 2));
    play.run();
    // The last page of this prompt is full, but its last row must be computed again.
    play.admit("B", generate(tokens(1, 16), 2));
    play.run();
    play.admit("C", generate([tokens(1, 16), tokens(2, 3)].concat(), 2));
    let log = schedule(play);
    insta::assert_snapshot!(log, @"
    step 1   prefill A[0..16]                         pages 4/16
    step 2   decode A                                 pages 5/16
    step 3   prefill B[12..16]                        pages 4/16  cached 12
    step 4   decode B                                 pages 5/16
    step 5   prefill C[16..19]                        pages 5/16  cached 16
    step 6   decode C                                 pages 5/16
    ");
}

#[test]
fn the_other_samples_wait_for_the_prompt_that_they_share() {
    let mut play = Play::new(runner_limits(16, 4, 8), config(4, 8, 8));
    let samples = nonzero(3);
    play.admit(
        "A",
        request(RequestKind::Generate(GenerateRequest { samples, ..text(tokens(1, 13), 3) })),
    );
    insta::assert_snapshot!(schedule(play), @"
    step 1   prefill A0[0..8]                         pages 2/16
    step 2   prefill A0[8..13]                        pages 4/16
    step 3   decode A0  prefill A1[12..13] A2[12..13]  pages 6/16  cached 24
    step 4   decode A0 A1 A2                          pages 6/16
    step 5   decode A1 A2                             pages 5/16
    ");
}

#[test]
fn branches_share_a_step_with_the_end_of_their_trunk() {
    let mut play = Play::new(runner_limits(16, 4, 12), config(2, 8, 12));
    let branches: Vec<_> = (0..5).map(|at| tokens(at, 3)).collect();
    play.admit("A", weigh(tokens(9, 14), branches.clone()));
    play.run();
    // The trunk's last page is not full, so it is computed again.
    play.admit("B", weigh(tokens(9, 14), branches.clone()));
    play.run();
    // A trunk of full pages is found whole.
    play.admit("C", weigh(tokens(9, 12), branches));
    insta::assert_snapshot!(schedule(play), @"
    step 1   prefill A[0..12]                         pages 3/16
    step 2   prefill A[12..14](0..3)                  pages 4/16
    step 3   prefill A(3..5)                          pages 4/16
    step 4   prefill B[12..14](0..3)                  pages 4/16  cached 12
    step 5   prefill B(3..5)                          pages 4/16
    step 6   prefill C(0..4)                          pages 3/16  cached 12
    step 7   prefill C(4..5)                          pages 3/16
    ");
}

#[test]
fn the_last_sequence_is_preempted() {
    let mut play = Play::new(runner_limits(6, 4, 16), config(4, 8, 16));
    play.admit("A", generate(tokens(1, 8), 12));
    play.admit("B", generate(tokens(2, 6), 10));
    insta::assert_snapshot!(schedule(play), @"
    step 1   prefill A[0..8] B[0..6]                  pages 4/6
    step 2   decode A B                               pages 5/6
    step 3   decode A B                               pages 5/6
    step 4   decode A B                               pages 6/6
    step 5   decode A B                               pages 6/6
    step 6   decode A                                 pages 4/6  preempted 1
    step 7   decode A                                 pages 4/6
    step 8   decode A                                 pages 4/6
    step 9   decode A                                 pages 4/6
    step 10  decode A                                 pages 5/6
    step 11  decode A                                 pages 5/6
    step 12  decode A                                 pages 5/6
    step 13  prefill B[4..11]                         pages 3/6
    step 14  decode B                                 pages 3/6
    step 15  decode B                                 pages 4/6
    step 16  decode B                                 pages 4/6
    step 17  decode B                                 pages 4/6
    ");
}

#[test]
fn critical_requests_preempt_sheddable_ones() {
    let mut play = Play::new(runner_limits(8, 4, 16), config(1, 8, 16));
    play.admit(
        "A",
        EngineRequest {
            priority: Priority { criticality: Criticality::Sheddable, deadline: None },
            ..generate(tokens(1, 8), 4)
        },
    );
    play.step();
    play.admit("B", generate(tokens(2, 6), 2));
    play.step();
    play.admit(
        "C",
        EngineRequest {
            priority: Priority { criticality: Criticality::Default, deadline: None },
            ..generate(tokens(3, 6), 2)
        },
    );
    insta::assert_snapshot!(schedule(play), @"
    step 1   prefill A[0..8]                          pages 2/8
    step 2   prefill B[0..6]                          pages 2/8  preempted 1
    step 3   decode B                                 pages 2/8
    step 4   prefill C[0..6]                          pages 2/8
    step 5   decode C                                 pages 2/8
    step 6   prefill A[8..9]                          pages 3/8
    step 7   decode A                                 pages 3/8
    step 8   decode A                                 pages 3/8
    ");
}

#[test]
fn the_earliest_deadline_goes_first() {
    let mut play = Play::new(runner_limits(64, 4, 16), config(2, 8, 8));
    for (name, deadline) in [("A", None), ("B", Some(900)), ("C", Some(300)), ("D", Some(600))] {
        let deadline = deadline.map(|deadline| play.deadline(deadline));
        play.admit(name, EngineRequest { priority: due(deadline), ..generate(tokens(1, 8), 2) });
    }
    insta::assert_snapshot!(schedule(play), @"
    step 1   prefill C[0..8] D[0..8]                  pages 4/64
    step 2   decode C D                               pages 6/64
    step 3   prefill B[4..8] A[4..8]                  pages 3/64  cached 8
    step 4   decode B A                               pages 5/64
    ");
}

#[test]
fn a_request_without_a_deadline_does_not_starve() {
    let mut play = Play::new(runner_limits(64, 4, 16), config(1, 8, 8));
    play.admit("A", generate(tokens(1, 8), 2));
    // One sequence may run, and a request with an early deadline always waits.
    for second in 0..12 {
        let deadline = Some(play.deadline(2_000));
        play.admit(
            &format!("B{second}"),
            EngineRequest { priority: due(deadline), ..generate(tokens(2, 2), 1) },
        );
        play.step();
        play.now += Duration::from_secs(1);
    }
    play.run();
    let order: Vec<_> = play.log.lines().filter(|line| line.contains("A[0..8]")).collect();
    assert_eq!(order.len(), 1);
    insta::assert_snapshot!(order[0], @"step 9   prefill A[0..8]                          pages 2/64");
}

#[test]
fn forced_tokens_join_the_next_span() {
    let mut play = Play::new(runner_limits(16, 4, 16), config(4, 8, 16));
    // Of these labels one is sampled, and the rest is forced.
    let labels = [vec![1, 5, 6], vec![2, 7, 8], vec![3, 5, 5]];
    let constraint = Constraint::permutation(&labels, &[9]).unwrap();
    let ranked = GenerateRequest { constraint, ..text(tokens(1, 4), 20) };
    play.admit("A", request(RequestKind::Generate(ranked.clone())));
    // With one label everything is forced.
    let constraint = Constraint::permutation(&labels[..1], &[]).unwrap();
    play.admit("B", request(RequestKind::Generate(GenerateRequest { constraint, ..ranked })));
    insta::assert_snapshot!(schedule(play), @"
    step 1   prefill A[0..4]                          pages 1/16
    step 2   decode Ax4                               pages 2/16
    ");
}

#[test]
fn a_request_past_its_deadline_fails() {
    let mut play = Play::new(runner_limits(16, 4, 16), config(4, 8, 16));
    let admit =
        EngineRequest { priority: due(Some(play.deadline(5))), ..generate(tokens(1, 8), 9) };
    let id = play.admit("A", admit);
    play.step();
    play.now += Duration::from_millis(5);
    assert!(!play.step());
    assert!(play.scheduler.is_idle());
    let last = play.requests[&id].events.last().unwrap().clone();
    assert_eq!(last, EngineEvent::Failed(raisonne::engine::RequestFailure::DeadlineExceeded));
}
