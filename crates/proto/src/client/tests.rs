use proptest::prelude::*;

use super::*;
use crate::backoff::Jitter;

fn at(millis: u64) -> Time {
    Time::from_micros(millis * 1000)
}

/// Delays without chance: none at first, then 0.5, 1, 2, … s.
fn policy() -> ReconnectPolicy {
    ReconnectPolicy {
        backoff: BackoffConfig { jitter: Jitter::None, first: Some(Duration::ZERO), ..BackoffConfig::default() },
        ..ReconnectPolicy::default()
    }
}

fn lazy() -> ReconnectPolicy {
    ReconnectPolicy { lazy: true, ..policy() }
}

fn outputs(machine: &mut ClientMachine) -> Vec<Output> {
    std::iter::from_fn(|| machine.poll_output()).collect()
}

fn transitions(outputs: &[Output]) -> Vec<(State, State)> {
    outputs
        .iter()
        .filter_map(|output| match output {
            Output::Transition { from, to, .. } => Some((*from, *to)),
            _ => None,
        })
        .collect()
}

fn dials(outputs: &[Output]) -> Vec<(u32, usize, bool)> {
    outputs
        .iter()
        .filter_map(|output| match output {
            Output::Dial { attempt, url, fresh_credentials } => Some((*attempt, *url, *fresh_credentials)),
            _ => None,
        })
        .collect()
}

fn refused(status: u16) -> DialFailure {
    DialFailure { status: Some(status), reason: format!("refused with {status}"), ..DialFailure::default() }
}

fn unreachable_host() -> DialFailure {
    DialFailure { reason: "connection refused".into(), ..DialFailure::default() }
}

/// Connected since `millis`, outputs taken.
fn connected(policy: ReconnectPolicy, millis: u64) -> ClientMachine {
    let mut machine = ClientMachine::new(policy, 1);
    machine.handle_connect(at(millis));
    assert!(machine.handle_dialed(at(millis), None));
    outputs(&mut machine);
    machine
}

/// Lets time pass until the machine dials; returns when.
fn until_dial(machine: &mut ClientMachine) -> Time {
    let now = machine.poll_timeout().expect("a timer");
    if let Some(before) = now.as_micros().checked_sub(1) {
        machine.handle_timeout(Time::from_micros(before));
        assert_eq!(machine.state(), State::Reconnecting);
    }
    machine.handle_timeout(now);
    assert_eq!(machine.state(), State::Connecting);
    now
}

#[test]
fn a_life() {
    let mut machine = ClientMachine::new(policy(), 1);
    assert_eq!(machine.state(), State::Disconnected);
    assert_eq!(outputs(&mut machine), []);
    machine.handle_connect(at(0));
    machine.handle_connect(at(0));
    let transition = |from, to, code, reason: &str, attempt, delay| Output::Transition {
        from,
        to,
        code,
        reason: reason.into(),
        attempt,
        delay,
    };
    assert_eq!(
        outputs(&mut machine),
        [
            transition(State::Disconnected, State::Connecting, 0, "", 1, None),
            Output::Dial { attempt: 1, url: 0, fresh_credentials: false },
        ]
    );
    assert_eq!(machine.poll_timeout(), None);
    assert!(machine.handle_dialed(at(10), None));
    assert_eq!(outputs(&mut machine), [transition(State::Connecting, State::Connected, 0, "", 1, None)]);
    machine.handle_wake(at(20));
    assert_eq!(outputs(&mut machine), [Output::Probe]);
    machine.handle_lost(at(6000), 1001, "restart".into());
    assert_eq!(
        outputs(&mut machine),
        [transition(State::Connected, State::Reconnecting, 1001, "restart", 1, Some(Duration::ZERO))]
    );
    assert_eq!(until_dial(&mut machine), at(6000));
    machine.handle_dial_failed(at(6001), refused(502));
    assert_eq!(
        outputs(&mut machine)[2..],
        [transition(
            State::Connecting,
            State::Reconnecting,
            502,
            "refused with 502",
            2,
            Some(Duration::from_millis(500))
        )]
    );
    assert_eq!(until_dial(&mut machine), at(6501));
    assert!(machine.handle_dialed(at(6600), None));
    outputs(&mut machine);
    machine.handle_close(at(7000), 1000, "bye".into());
    machine.handle_close(at(7000), 1000, "bye".into());
    assert_eq!(
        outputs(&mut machine),
        [
            Output::Close { code: 1000, reason: "bye".into() },
            transition(State::Connected, State::Closed, 1000, "bye", 2, None),
        ]
    );
    machine.handle_closed(at(7001));
    machine.handle_closed(at(7001));
    assert_eq!(outputs(&mut machine), [Output::Ended]);
    machine.handle_connect(at(8000));
    machine.handle_wake(at(8000));
    machine.handle_pending(at(8000));
    assert_eq!(outputs(&mut machine), []);
}

#[test]
fn each_state_closes() {
    let mut new = ClientMachine::new(policy(), 1);
    new.handle_close(at(0), 1000, String::new());
    assert_eq!(transitions(&outputs(&mut new)), [(State::Disconnected, State::Closed)]);

    let mut dialing = ClientMachine::new(policy(), 1);
    dialing.handle_connect(at(0));
    outputs(&mut dialing);
    dialing.handle_close(at(0), 1000, String::new());
    let closed = outputs(&mut dialing);
    assert_eq!((closed.first(), closed.last()), (Some(&Output::CancelDial), Some(&Output::Ended)));
    // The dial won the race: its socket is refused.
    assert!(!dialing.handle_dialed(at(1), None));
    assert_eq!(outputs(&mut dialing), []);

    let mut waiting = connected(policy(), 0);
    waiting.handle_lost(at(0), 1006, String::new());
    waiting.handle_close(at(0), 1000, String::new());
    assert_eq!(waiting.poll_timeout(), None);
    let closed = outputs(&mut waiting);
    assert_eq!(transitions(&closed)[1..], [(State::Reconnecting, State::Closed)]);
    assert_eq!(closed.last(), Some(&Output::Ended));

    let mut dormant = connected(lazy(), 0);
    dormant.handle_lost(at(0), 1006, String::new());
    dormant.handle_close(at(0), 1000, String::new());
    assert_eq!(outputs(&mut dormant).last(), Some(&Output::Ended));
    dormant.handle_pending(at(1));
    assert_eq!(outputs(&mut dormant), []);
}

#[test]
fn which_losses_are_terminal() {
    for (code, terminal) in [
        (1000, false),
        (1001, false),
        (1002, true),
        (1003, true),
        (1005, false),
        (1006, false),
        (1007, true),
        (1008, false),
        (1009, true),
        (1010, true),
        (1011, false),
        (1012, false),
        (1013, false),
        (4001, false),
        (4500, false),
    ] {
        let mut machine = connected(policy(), 0);
        machine.handle_lost(at(100), code, "why".into());
        let outputs = outputs(&mut machine);
        assert_eq!(machine.state() == State::Closed, terminal, "{code}");
        if terminal {
            assert_eq!(transitions(&outputs), [(State::Connected, State::Closed)]);
            assert_eq!(outputs[1..], [Output::GaveUp { code, reason: "why".into() }, Output::Ended]);
        } else {
            assert_eq!(transitions(&outputs), [(State::Connected, State::Reconnecting)]);
            assert!(machine.poll_timeout().is_some());
        }
    }
}

#[test]
fn which_refusals_are_terminal() {
    for (status, terminal) in [
        (400, true),
        (403, true),
        (404, true),
        (410, true),
        (426, true),
        (429, false),
        (500, false),
        (502, false),
        (503, false),
        (200, false),
        (301, false),
    ] {
        let mut machine = ClientMachine::new(policy(), 1);
        machine.handle_connect(at(0));
        machine.handle_dial_failed(at(1), refused(status));
        assert_eq!(machine.state() == State::Closed, terminal, "{status}");
        let gave_up = Output::GaveUp { code: status, reason: format!("refused with {status}") };
        assert_eq!(outputs(&mut machine).contains(&gave_up), terminal);
    }
    let mut machine = ClientMachine::new(policy(), 1);
    machine.handle_connect(at(0));
    machine.handle_dial_failed(at(1), DialFailure { terminal: true, ..unreachable_host() });
    assert_eq!(machine.state(), State::Closed);
}

#[test]
fn unauthorized_gets_one_more_try_with_fresh_credentials() {
    let mut machine = ClientMachine::new(policy(), 1);
    machine.handle_connect(at(0));
    machine.handle_dial_failed(at(1), refused(401));
    assert_eq!(machine.poll_timeout(), None);
    let first = outputs(&mut machine);
    assert_eq!(dials(&first), [(1, 0, false), (2, 0, true)]);
    assert_eq!(
        transitions(&first),
        [
            (State::Disconnected, State::Connecting),
            (State::Connecting, State::Reconnecting),
            (State::Reconnecting, State::Connecting),
        ]
    );
    let mut refused_again = machine;
    refused_again.handle_dial_failed(at(2), refused(401));
    assert!(outputs(&mut refused_again).contains(&Output::GaveUp { code: 401, reason: "refused with 401".into() }));

    // Success makes the next 401 a first one.
    let mut machine = connected(policy(), 0);
    for _ in 0..2 {
        machine.handle_lost(at(10), 1006, String::new());
        until_dial(&mut machine);
        outputs(&mut machine);
        machine.handle_dial_failed(at(20), refused(401));
        assert_eq!(dials(&outputs(&mut machine)).last().map(|dial| dial.2), Some(true));
        assert!(machine.handle_dialed(at(30), None));
    }
}

#[test]
fn retry_after_is_honoured() {
    for (status, honoured) in [(503, true), (429, true), (500, false)] {
        let mut machine = ClientMachine::new(policy(), 1);
        machine.handle_connect(at(0));
        let retry_after = Some(Duration::from_secs(20));
        machine.handle_dial_failed(at(0), DialFailure { retry_after, ..refused(status) });
        let now = until_dial(&mut machine);
        assert_eq!(now >= at(20_000), honoured, "{status}");
        assert!(now <= at(22_000));
        // It does not outlive the round.
        machine.handle_dial_failed(now, unreachable_host());
        assert_eq!(until_dial(&mut machine) - now, Duration::from_millis(500));
    }
}

#[test]
fn the_advertised_spread_shapes_the_first_window() {
    let policy = ReconnectPolicy::default();
    let delays: Vec<Duration> = (0..200)
        .map(|seed| {
            let mut machine = ClientMachine::new(policy.clone(), seed);
            machine.handle_connect(at(0));
            assert!(machine.handle_dialed(at(0), Some(Duration::from_secs(100_000))));
            machine.handle_lost(at(6000), 1001, String::new());
            machine.poll_timeout().unwrap() - at(6000)
        })
        .collect();
    assert!(delays.iter().all(|delay| *delay <= Duration::from_secs(60)));
    assert!(delays.iter().any(|delay| *delay > Duration::from_secs(50)));
    let same: Vec<Duration> = (0..2)
        .map(|_| {
            let mut machine = connected(policy.clone(), 0);
            machine.handle_lost(at(6000), 1001, String::new());
            machine.poll_timeout().unwrap() - at(6000)
        })
        .collect();
    assert_eq!(same[0], same[1]);
    assert!(same[0] <= Duration::from_millis(100));
}

#[test]
fn failover_goes_round_in_order() {
    let mut machine = ClientMachine::new(ReconnectPolicy { urls: 3, ..policy() }, 1);
    machine.handle_connect(at(0));
    for _ in 0..2 {
        machine.handle_dial_failed(at(0), unreachable_host());
        assert_eq!(machine.state(), State::Connecting);
    }
    machine.handle_dial_failed(at(0), unreachable_host());
    assert_eq!(dials(&outputs(&mut machine)), [(1, 0, false), (2, 1, false), (3, 2, false)]);
    until_dial(&mut machine);
    machine.handle_dial_failed(at(0), unreachable_host());
    assert!(machine.handle_dialed(at(0), None));
    assert_eq!(dials(&outputs(&mut machine)), [(4, 0, false), (5, 1, false)]);
    // Lost when stable: from the first on.
    machine.handle_lost(at(10_000), 1006, String::new());
    until_dial(&mut machine);
    assert_eq!(dials(&outputs(&mut machine)), [(1, 0, false)]);
    assert!(machine.handle_dialed(at(10_000), None));
    // Lost at once: the next may be better; the round still sees each once.
    machine.handle_lost(at(10_001), 1006, String::new());
    until_dial(&mut machine);
    for _ in 0..3 {
        machine.handle_dial_failed(at(0), unreachable_host());
    }
    assert_eq!(dials(&outputs(&mut machine)), [(2, 1, false), (3, 2, false), (4, 0, false)]);
    assert_eq!(machine.state(), State::Reconnecting);
}

#[test]
fn attempts_run_out() {
    let backoff = BackoffConfig { max_attempts: Some(2), ..policy().backoff };
    let mut machine = ClientMachine::new(ReconnectPolicy { backoff, ..policy() }, 1);
    machine.handle_connect(at(0));
    for _ in 0..2 {
        machine.handle_dial_failed(at(0), unreachable_host());
        until_dial(&mut machine);
    }
    machine.handle_dial_failed(at(0), unreachable_host());
    assert_eq!(machine.state(), State::Closed);
    let reason = "connection refused; reconnect attempts exhausted".to_owned();
    assert!(outputs(&mut machine).contains(&Output::GaveUp { code: 0, reason }));
}

#[test]
fn lazy_waits_for_something_to_say() {
    let mut machine = connected(lazy(), 0);
    machine.handle_lost(at(6000), 1001, String::new());
    let Output::Transition { to: State::Reconnecting, delay: None, .. } = outputs(&mut machine)[0] else {
        panic!("no delay is known")
    };
    assert_eq!(machine.poll_timeout(), None);
    machine.handle_timeout(at(100_000));
    assert_eq!(machine.state(), State::Reconnecting);
    machine.handle_pending(at(100_000));
    assert_eq!(machine.state(), State::Connecting);
    // The wish outlives a failed dial.
    machine.handle_dial_failed(at(100_000), unreachable_host());
    until_dial(&mut machine);
    assert!(machine.handle_dialed(at(101_000), None));
    machine.handle_lost(at(101_001), 1006, String::new());
    assert_eq!(machine.poll_timeout(), None);
    // A server that hangs up on every message is not hammered.
    machine.handle_pending(at(101_001));
    assert_eq!(machine.state(), State::Reconnecting);
    assert!(machine.poll_timeout() > Some(at(101_400)));
    outputs(&mut machine);
    machine.handle_wake(at(101_002));
    assert_eq!(transitions(&outputs(&mut machine)), [(State::Reconnecting, State::Connecting)]);
    // The first connect does not wait.
    let mut machine = ClientMachine::new(lazy(), 1);
    machine.handle_connect(at(0));
    assert_eq!(machine.state(), State::Connecting);
    machine.handle_dial_failed(at(0), unreachable_host());
    assert!(machine.poll_timeout().is_some());
}

#[test]
fn wake_cuts_the_delay_short() {
    let mut machine = ClientMachine::new(policy(), 1);
    machine.handle_wake(at(0));
    assert_eq!(outputs(&mut machine), []);
    machine.handle_connect(at(0));
    for n in 2..9 {
        machine.handle_dial_failed(at(0), unreachable_host());
        assert!(machine.poll_timeout().is_some());
        machine.handle_wake(at(0));
        machine.handle_wake(at(0));
        assert_eq!(machine.poll_timeout(), None);
        assert_eq!(dials(&outputs(&mut machine)).last().map(|dial| dial.0), Some(n));
    }
}

#[derive(Clone, Debug)]
enum Input {
    Connect,
    Wake,
    Pending,
    Dialed(Option<u64>),
    DialFailed(DialFailure),
    Lost(u16),
    Close,
    Closed,
    Timeout,
    Sleep(u64),
}

fn input() -> impl Strategy<Value = Input> {
    let failure = (
        prop::option::of(prop::sample::select(vec![401, 401, 429, 500, 502, 503, 404])),
        prop::option::of(0u64..100),
        prop::bool::weighted(0.02),
        prop::option::of(0u64..100),
    )
        .prop_map(|(status, retry_after, terminal, spread)| DialFailure {
            status,
            retry_after: retry_after.map(Duration::from_secs),
            terminal,
            spread: spread.map(Duration::from_secs),
            reason: String::new(),
        });
    prop_oneof![
        2 => Just(Input::Connect),
        2 => Just(Input::Wake),
        2 => Just(Input::Pending),
        6 => prop::option::of(0u64..100).prop_map(Input::Dialed),
        6 => failure.prop_map(Input::DialFailed),
        5 => prop::sample::select(vec![1000u16, 1001, 1006, 1006, 1008, 1011, 4001, 1002]).prop_map(Input::Lost),
        1 => prop::bool::weighted(0.2).prop_map(|close| if close { Input::Close } else { Input::Timeout }),
        1 => Just(Input::Closed),
        6 => Just(Input::Timeout),
        4 => (0u64..40_000_000).prop_map(Input::Sleep),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// A driver that does what it is told and reports what it likes, also late and twice.
    #[test]
    fn never_two_sockets_or_timers(
        urls in 1usize..4,
        lazy in any::<bool>(),
        max_attempts in prop::option::of(0u32..6),
        inputs in prop::collection::vec(input(), 1..80),
        seed in any::<u64>(),
    ) {
        let backoff = BackoffConfig { max_attempts, ..BackoffConfig::default() };
        let policy = ReconnectPolicy { backoff, lazy, urls, ..ReconnectPolicy::default() };
        let mut machine = ClientMachine::new(policy, seed);
        let (mut now, mut state) = (Time::ZERO, State::Disconnected);
        let (mut dialing, mut open, mut ended) = (false, false, false);
        let mut urls_at_once: Vec<usize> = Vec::new();
        for input in inputs {
            match input {
                Input::Connect => machine.handle_connect(now),
                Input::Wake => {
                    urls_at_once.clear();
                    machine.handle_wake(now);
                }
                Input::Pending => machine.handle_pending(now),
                Input::Dialed(spread) => {
                    let keep = machine.handle_dialed(now, spread.map(Duration::from_secs));
                    prop_assert_eq!(keep, dialing);
                    if keep {
                        (dialing, open) = (false, true);
                    }
                }
                Input::DialFailed(failure) => {
                    machine.handle_dial_failed(now, failure);
                    dialing = false;
                }
                Input::Lost(code) => {
                    machine.handle_lost(now, code, String::new());
                    open = false;
                }
                Input::Close => machine.handle_close(now, 1000, String::new()),
                Input::Closed => {
                    machine.handle_closed(now);
                    open = false;
                }
                Input::Timeout => {
                    if let Some(timeout) = machine.poll_timeout() {
                        now = now.max(timeout);
                    }
                    urls_at_once.clear();
                    machine.handle_timeout(now);
                    prop_assert!(machine.poll_timeout().is_none_or(|timeout| timeout > now));
                }
                Input::Sleep(micros) => now = now + Duration::from_micros(micros),
            }
            while let Some(output) = machine.poll_output() {
                prop_assert!(!ended, "{:?} after the end", output);
                match output {
                    Output::CancelDial => {
                        prop_assert!(dialing);
                        dialing = false;
                    }
                    Output::Close { .. } | Output::Probe => prop_assert!(open),
                    Output::Dial { url, attempt, fresh_credentials } => {
                        prop_assert!(!dialing && !open, "a second socket");
                        prop_assert_eq!(state, State::Connecting);
                        prop_assert!(url < urls && attempt >= 1);
                        dialing = true;
                        if !fresh_credentials {
                            urls_at_once.push(url);
                        }
                    }
                    Output::Ended => ended = true,
                    Output::GaveUp { .. } => prop_assert_eq!(state, State::Closed),
                    Output::Transition { from, to, delay, .. } => {
                        prop_assert_eq!(from, state);
                        let allowed = matches!(
                            (from, to),
                            (State::Disconnected | State::Reconnecting, State::Connecting)
                                | (State::Connecting, State::Connected | State::Reconnecting)
                                | (State::Connected, State::Reconnecting)
                                | (_, State::Closed)
                        );
                        prop_assert!(allowed && from != to, "{:?} to {:?}", from, to);
                        prop_assert!(to == State::Reconnecting || delay.is_none());
                        state = to;
                    }
                }
            }
            prop_assert_eq!(machine.state(), state);
            let timers = usize::from(machine.poll_timeout().is_some());
            prop_assert!(usize::from(dialing) + usize::from(open) + timers <= 1);
            // Something must be under way, unless nobody wants it.
            match state {
                State::Connecting => prop_assert!(dialing),
                State::Connected => prop_assert!(open),
                State::Reconnecting => prop_assert!(timers == 1 || lazy),
                State::Disconnected => prop_assert!(!ended),
                State::Closed => prop_assert_eq!(ended, !open),
            }
            if state == State::Connected {
                urls_at_once.clear();
            }
            prop_assert!(urls_at_once.len() <= urls, "a round without a delay");
        }
    }
}

#[test]
fn asked_to_leave_it_comes_back_at_once_unless_it_has_just_come() {
    let mut machine = connected(policy(), 0);
    machine.handle_ended(at(10_000), close::GOING_AWAY, "leave".into(), Comeback::AtOnce);
    let outputs = outputs(&mut machine);
    assert_eq!(
        transitions(&outputs),
        [(State::Connected, State::Reconnecting), (State::Reconnecting, State::Connecting)]
    );
    assert_eq!(dials(&outputs), [(1, 0, false)]);
    assert!(machine.handle_dialed(at(10_010), None));
    // A server that sends everybody away must not be stormed.
    machine.handle_ended(at(10_020), close::GOING_AWAY, "leave".into(), Comeback::AtOnce);
    assert_eq!(machine.state(), State::Reconnecting);
    assert!(machine.poll_timeout().is_some());
}

#[test]
fn told_to_come_back_with_something_to_say_it_waits_for_that() {
    let mut machine = connected(policy(), 0);
    machine.handle_ended(at(10_000), close::IDLE, "idle".into(), Comeback::WhenWanted);
    assert_eq!((machine.state(), machine.poll_timeout()), (State::Reconnecting, None));
    machine.handle_pending(at(60_000));
    assert_eq!(machine.state(), State::Connecting);
    // Only for that once.
    assert!(machine.handle_dialed(at(60_010), None));
    machine.handle_lost(at(70_000), close::ABNORMAL, String::new());
    assert!(machine.poll_timeout().is_some());
}

#[test]
fn told_to_stay_away_it_does() {
    let mut machine = connected(policy(), 0);
    machine.handle_ended(at(10_000), close::SUPERSEDED, "elsewhere".into(), Comeback::Never);
    assert_eq!(machine.state(), State::Closed);
    assert!(
        outputs(&mut machine).iter().any(|output| matches!(output, Output::GaveUp { code: close::SUPERSEDED, .. }))
    );
}
