use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn at(seconds: f64) -> Time {
    Time::ZERO + Duration::from_secs_f64(seconds)
}

fn secs(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

fn config(mode: Mode) -> HeartbeatConfig {
    HeartbeatConfig { mode, ..HeartbeatConfig::default() }
}

/// Jitter 1: the first beat after a whole interval.
fn heartbeat(config: HeartbeatConfig) -> Heartbeat {
    Heartbeat::new(config, Time::ZERO, 1.0)
}

fn heard(seconds: f64) -> Link {
    Link { last_received: at(seconds), write_stalled_since: None, reads_paused: false, unconfirmed: false }
}

#[test]
fn auto_beats_after_silence_and_dies_without_an_answer() {
    let mut beats = heartbeat(config(Mode::Auto));
    assert_eq!(beats.poll_timeout(), Some(at(25.0)));
    assert_eq!(beats.handle_timeout(at(24.9), &heard(0.0)), None);
    // A byte at 20 s moves the beat.
    assert_eq!(beats.handle_timeout(at(25.0), &heard(20.0)), None);
    assert_eq!(beats.poll_timeout(), Some(at(45.0)));
    assert_eq!(beats.handle_timeout(at(45.0), &heard(20.0)), Some(Action::Beat));
    assert_eq!(beats.handle_timeout(at(45.0), &heard(20.0)), None);
    beats.handle_beat_written(at(46.0));
    assert_eq!(beats.poll_timeout(), Some(at(56.0)));
    assert_eq!(beats.handle_timeout(at(55.9), &heard(20.0)), None);
    assert_eq!(beats.handle_timeout(at(56.0), &heard(20.0)), Some(Action::Dead));
    assert_eq!(beats.poll_timeout(), None);
    assert_eq!(beats.handle_timeout(at(99.0), &heard(20.0)), None);
}

#[test]
fn while_something_is_unconfirmed_only_an_answer_is_a_sign_of_life() {
    let talking = |now| Link { unconfirmed: true, ..heard(now) };
    let mut beats = heartbeat(config(Mode::Auto));
    assert_eq!(beats.handle_timeout(at(25.0), &talking(24.9)), Some(Action::Beat));
    beats.handle_beat_written(at(25.0));
    assert_eq!(beats.handle_timeout(at(34.9), &talking(34.8)), None);
    beats.handle_answer(at(34.9));
    // The next wait counts from the answer, whatever else comes.
    assert_eq!(beats.poll_timeout(), Some(at(59.5)));
    assert_eq!(beats.handle_timeout(at(59.5), &talking(59.4)), Some(Action::Beat));
    beats.handle_beat_written(at(59.5));
    assert_eq!(beats.handle_timeout(at(69.4), &talking(69.3)), None);
    assert_eq!(beats.handle_timeout(at(69.5), &talking(69.4)), Some(Action::Dead));
    // Confirmed meanwhile: what came after the beat is life again.
    let mut beats = heartbeat(config(Mode::Auto));
    assert_eq!(beats.handle_timeout(at(25.0), &talking(24.9)), Some(Action::Beat));
    beats.handle_beat_written(at(25.0));
    assert_eq!(beats.handle_timeout(at(35.0), &heard(34.0)), None);
    assert_eq!(beats.poll_timeout(), Some(at(59.0)));
}

#[test]
fn the_first_beat_lies_in_the_second_half_of_the_interval() {
    for (jitter, first) in [(0.0, 12.5), (0.5, 18.5), (1.0, 25.0)] {
        for mode in [Mode::Auto, Mode::Fixed, Mode::Keepalive] {
            let mut beats = Heartbeat::new(config(mode), at(100.0), jitter);
            assert_eq!(beats.poll_timeout(), Some(at(100.0 + first)));
            assert_eq!(beats.handle_timeout(at(100.0 + first), &heard(100.0)), Some(Action::Beat));
            beats.handle_beat_written(at(100.0 + first));
            beats.handle_answer(at(100.0 + first));
            assert_eq!(beats.poll_timeout(), Some(at(100.0 + first + 25.0)));
        }
    }
}

#[test]
fn beats_of_many_links_are_due_together_and_never_late() {
    for (interval, grain) in [(25.0, 500_000), (100.0, 500_000), (5.0, 100_000), (1.0, 20_000), (0.5, 10_000), (0.2, 0)]
    {
        for mode in [Mode::Auto, Mode::Fixed, Mode::Keepalive] {
            let mut moments = BTreeSet::new();
            for link in 0..1000_u64 {
                let opened = Time::from_micros(77_000_123 + link * 1_009);
                let rules = HeartbeatConfig { interval: secs(interval), ..config(mode) };
                let mut beats = Heartbeat::new(rules, opened, 1.0);
                let due = beats.poll_timeout().unwrap();
                let early = (opened + secs(interval)) - due;
                assert!(due <= opened + secs(interval) && early.as_micros() <= grain + 1, "{interval} {early:?}");
                moments.insert(due);
                let link = |last_received| Link { last_received, ..heard(0.0) };
                assert_eq!(beats.handle_timeout(Time::from_micros(due.as_micros() - 1), &link(opened)), None);
                assert_eq!(beats.handle_timeout(due, &link(opened)), Some(Action::Beat));
                // The answer takes some time, and still the next beat comes an interval after this one.
                beats.handle_beat_written(due);
                beats.handle_answer(due + secs(0.0003));
                if grain > 0 {
                    assert_eq!(beats.poll_timeout(), Some(due + secs(interval)));
                }
            }
            let spread = 1000 * 1009;
            assert!(moments.len() as u128 <= spread / grain.max(1009) + 2, "{interval} {mode:?}: {}", moments.len());
        }
    }
    // To listen means not to be in a hurry to judge.
    let passive = Heartbeat::new(config(Mode::Passive), Time::from_micros(123_457), 1.0);
    assert_eq!(passive.poll_timeout(), Some(Time::from_micros(25_123_457)));
}

#[test]
fn any_byte_answers() {
    let mut beats = heartbeat(config(Mode::Auto));
    assert_eq!(beats.handle_timeout(at(25.0), &heard(0.0)), Some(Action::Beat));
    beats.handle_beat_written(at(25.0));
    assert_eq!(beats.handle_timeout(at(35.0), &heard(25.0)), None);
    assert_eq!(beats.poll_timeout(), Some(at(50.0)));
    assert_eq!(beats.missed(), 0);
}

#[test]
fn several_beats_may_be_missed() {
    let mut beats = heartbeat(HeartbeatConfig { missed_limit: 3, ..HeartbeatConfig::default() });
    for (n, time) in [25.0, 35.0, 45.0].into_iter().enumerate() {
        assert_eq!(beats.handle_timeout(at(time), &heard(0.0)), Some(Action::Beat));
        beats.handle_beat_written(at(time));
        assert_eq!(beats.missed(), n as u32);
    }
    assert_eq!(beats.handle_timeout(at(55.0), &heard(0.0)), Some(Action::Dead));
    assert_eq!(beats.missed(), 3);

    let mut beats = heartbeat(HeartbeatConfig { missed_limit: 2, ..HeartbeatConfig::default() });
    assert_eq!(beats.handle_timeout(at(25.0), &heard(0.0)), Some(Action::Beat));
    assert_eq!(beats.handle_timeout(at(35.0), &heard(0.0)), Some(Action::Beat));
    assert_eq!(beats.missed(), 1);
    assert_eq!(beats.handle_timeout(at(45.0), &heard(40.0)), None);
    assert_eq!(beats.missed(), 0);
    assert_eq!(beats.poll_timeout(), Some(at(65.0)));
}

#[test]
fn a_beat_that_never_leaves_counts_from_when_it_was_queued() {
    let mut beats = heartbeat(config(Mode::Auto));
    let stuck = Link { write_stalled_since: Some(at(1.0)), ..heard(0.0) };
    assert_eq!(beats.handle_timeout(at(25.0), &stuck), Some(Action::Beat));
    assert_eq!(beats.poll_timeout(), Some(at(35.0)));
    assert_eq!(beats.handle_timeout(at(35.0), &stuck), Some(Action::Dead));

    // Bytes before it went out at 32 s: the peer's TCP lived then.
    let mut beats = heartbeat(config(Mode::Auto));
    assert_eq!(beats.handle_timeout(at(25.0), &stuck), Some(Action::Beat));
    let slow = Link { write_stalled_since: Some(at(32.0)), ..heard(0.0) };
    assert_eq!(beats.handle_timeout(at(35.0), &slow), None);
    assert_eq!(beats.poll_timeout(), Some(at(42.0)));
    assert_eq!(beats.handle_timeout(at(42.0), &slow), Some(Action::Dead));
}

#[test]
fn a_write_stall_kills_although_bytes_arrive() {
    for (mode, patience) in
        [(Mode::Auto, Some(35.0)), (Mode::Fixed, Some(35.0)), (Mode::Passive, Some(25.0)), (Mode::Keepalive, None)]
    {
        for reads_paused in [false, true] {
            let mut beats = heartbeat(config(mode));
            let died = drive(&mut beats, 500.0, |now| Link {
                last_received: now,
                write_stalled_since: (now >= at(100.0)).then(|| at(100.0)),
                reads_paused,
                unconfirmed: false,
            });
            assert_eq!(died, patience.map(|patience| at(100.0 + patience)), "{mode:?} {reads_paused}");
        }
    }
}

/// Runs for `until` seconds, beats written at once and answered only through `link`; returns when the
/// link was declared dead. Fails when a timeout makes no progress.
fn drive(beats: &mut Heartbeat, until: f64, link: impl Fn(Time) -> Link) -> Option<Time> {
    let mut last = None;
    while let Some(now) = beats.poll_timeout().filter(|now| *now <= at(until)) {
        assert!(last < Some(now), "busy loop at {now:?}: {beats:?}");
        last = Some(now);
        while let Some(action) = beats.handle_timeout(now, &link(now)) {
            match action {
                Action::Beat => beats.handle_beat_written(now),
                Action::Dead => return Some(now),
            }
        }
    }
    None
}

#[test]
fn fixed_beats_under_traffic() {
    let mut beats = heartbeat(config(Mode::Fixed));
    for n in 1..=4 {
        let now = at(25.0 * f64::from(n));
        assert_eq!(beats.poll_timeout(), Some(now));
        assert_eq!(beats.handle_timeout(now, &Link { last_received: now, ..heard(0.0) }), Some(Action::Beat));
        beats.handle_beat_written(now);
        assert_eq!(
            beats.handle_timeout(now + secs(10.0), &Link { last_received: now + secs(7.0), ..heard(0.0) }),
            None
        );
    }
    // The peer falls silent.
    assert_eq!(beats.handle_timeout(at(125.0), &heard(124.0)), Some(Action::Beat));
    assert_eq!(beats.handle_timeout(at(135.0), &heard(124.0)), Some(Action::Dead));
}

#[test]
fn keepalive_never_cuts_and_keeps_its_pace() {
    let mut beats = heartbeat(config(Mode::Keepalive));
    let mut sent = Vec::new();
    let mut now = Time::ZERO;
    while now < at(130.0) {
        now = beats.poll_timeout().unwrap();
        let stuck = Link { write_stalled_since: Some(Time::ZERO), ..heard(0.0) };
        while let Some(action) = beats.handle_timeout(now, &stuck) {
            assert_eq!(action, Action::Beat);
            sent.push(now);
        }
    }
    assert_eq!(sent, [25.0, 50.0, 75.0, 100.0, 125.0].map(at));
    assert_eq!(beats.missed(), 5);
}

#[test]
fn passive_only_listens() {
    let mut beats = heartbeat(HeartbeatConfig { missed_limit: 2, ..config(Mode::Passive) });
    assert_eq!(beats.poll_timeout(), Some(at(50.0)));
    assert_eq!(beats.handle_timeout(at(50.0), &heard(30.0)), None);
    beats.probe(at(51.0), secs(1.0));
    assert_eq!(beats.poll_timeout(), Some(at(80.0)));
    // Paused reads: silence is no evidence, and a whole wait follows.
    assert_eq!(beats.handle_timeout(at(80.0), &Link { reads_paused: true, ..heard(30.0) }), None);
    assert_eq!(beats.poll_timeout(), Some(at(130.0)));
    beats.handle_reads_resumed(at(90.0));
    assert_eq!(beats.poll_timeout(), Some(at(140.0)));
    assert_eq!(beats.handle_timeout(at(140.0), &heard(30.0)), Some(Action::Dead));
}

#[test]
fn off_does_nothing() {
    let mut beats = heartbeat(config(Mode::Off));
    beats.probe(at(1.0), secs(1.0));
    assert_eq!(beats.poll_timeout(), None);
    assert_eq!(beats.handle_timeout(at(1000.0), &heard(0.0)), None);
}

#[test]
fn paused_reads_beat_on_without_judging() {
    let mut beats = heartbeat(config(Mode::Auto));
    let paused = Link { reads_paused: true, ..heard(0.0) };
    let mut sent = Vec::new();
    while sent.len() < 4 {
        let now = beats.poll_timeout().unwrap();
        while let Some(action) = beats.handle_timeout(now, &paused) {
            assert_eq!(action, Action::Beat);
            beats.handle_beat_written(now);
            sent.push(now);
        }
    }
    assert_eq!(sent, [25.0, 50.0, 75.0, 100.0].map(at));
    assert_eq!(beats.missed(), 0);
    // Resumed a moment before the deadline of 110 s: the answer to the beat of 100 s is still unread.
    beats.handle_reads_resumed(at(109.0));
    assert_eq!(beats.poll_timeout(), Some(at(119.0)));
    assert_eq!(beats.handle_timeout(at(119.0), &heard(0.0)), Some(Action::Dead));
}

#[test]
fn a_resume_that_nobody_reported_starts_evidence_anew() {
    let mut beats = heartbeat(config(Mode::Auto));
    let paused = Link { reads_paused: true, ..heard(0.0) };
    assert_eq!(beats.handle_timeout(at(25.0), &paused), Some(Action::Beat));
    beats.handle_beat_written(at(25.0));
    assert_eq!(beats.handle_timeout(at(35.0), &heard(0.0)), None);
    assert_eq!(beats.poll_timeout(), Some(at(45.0)));
    assert_eq!(beats.handle_timeout(at(45.0), &heard(0.0)), Some(Action::Dead));
}

#[test]
fn a_probe_gives_one_chance() {
    let lenient = HeartbeatConfig { missed_limit: 5, ..HeartbeatConfig::default() };
    let mut beats = heartbeat(lenient);
    beats.probe(at(3.0), secs(2.0));
    assert_eq!(beats.poll_timeout(), Some(at(3.0)));
    assert_eq!(beats.handle_timeout(at(3.0), &heard(1.0)), Some(Action::Beat));
    beats.handle_beat_written(at(3.5));
    assert_eq!(beats.poll_timeout(), Some(at(5.5)));
    assert_eq!(beats.handle_timeout(at(5.5), &heard(1.0)), Some(Action::Dead));

    let mut beats = heartbeat(lenient);
    beats.probe(at(3.0), secs(2.0));
    assert_eq!(beats.handle_timeout(at(3.0), &heard(1.0)), Some(Action::Beat));
    beats.handle_beat_written(at(3.0));
    assert_eq!(beats.handle_answer(at(4.0)), Some(secs(1.0)));
    assert_eq!(beats.poll_timeout(), Some(at(29.0)));

    // In the middle of a beat, too.
    let mut beats = heartbeat(lenient);
    assert_eq!(beats.handle_timeout(at(25.0), &heard(0.0)), Some(Action::Beat));
    beats.probe(at(26.0), secs(2.0));
    assert_eq!(beats.handle_timeout(at(26.0), &heard(0.0)), Some(Action::Beat));
    assert_eq!(beats.handle_timeout(at(28.0), &heard(0.0)), Some(Action::Dead));
}

#[test]
fn round_trips_are_smoothed_and_never_ambiguous() {
    let mut beats = heartbeat(HeartbeatConfig { missed_limit: 2, ..HeartbeatConfig::default() });
    assert_eq!(beats.handle_answer(at(1.0)), None);
    assert_eq!(beats.rtt(), None);
    assert_eq!(beats.handle_timeout(at(25.0), &heard(0.0)), Some(Action::Beat));
    beats.handle_beat_written(at(26.0));
    assert_eq!(beats.handle_answer(at(26.8)), Some(secs(0.8)));
    assert_eq!(beats.rtt(), Some(secs(0.8)));
    assert_eq!(beats.handle_timeout(at(60.0), &heard(26.8)), Some(Action::Beat));
    beats.handle_beat_written(at(60.0));
    assert_eq!(beats.handle_answer(at(61.6)), Some(secs(1.6)));
    assert_eq!(beats.rtt(), Some(secs(0.9)));
    assert_eq!(beats.handle_answer(at(61.7)), None);
    // Missed and repeated: whose answer is it?
    assert_eq!(beats.handle_timeout(at(90.0), &heard(61.6)), Some(Action::Beat));
    beats.handle_beat_written(at(90.0));
    assert_eq!(beats.handle_timeout(at(100.0), &heard(61.6)), Some(Action::Beat));
    beats.handle_beat_written(at(100.0));
    assert_eq!(beats.handle_answer(at(100.1)), None);
    assert_eq!(beats.missed(), 0);
    assert_eq!(beats.rtt(), Some(secs(0.9)));
}

#[test]
fn adaptive_grows_falls_back_and_holds() {
    let adaptive = Adaptive { min: secs(10.0), max: secs(40.0), step: secs(10.0) };
    let mut beats =
        heartbeat(HeartbeatConfig { adaptive: Some(adaptive), missed_limit: 2, ..HeartbeatConfig::default() });
    let (mut now, mut answered_at) = (0.0, 0.0);
    let mut beat = |beats: &mut Heartbeat, answered: bool| {
        let before = now;
        now = beats.poll_timeout().unwrap().as_micros() as f64 / 1e6;
        assert_eq!(beats.handle_timeout(at(now), &heard(answered_at)), Some(Action::Beat));
        beats.handle_beat_written(at(now));
        if answered {
            answered_at = now;
            beats.handle_answer(at(now));
        }
        (now - before) as u32
    };
    assert_eq!([0; 5].map(|_| beat(&mut beats, true)), [10, 20, 30, 40, 40]);
    beats.handle_traffic();
    assert_eq!(beats.interval(), secs(10.0));
    assert_eq!([0; 2].map(|_| beat(&mut beats, true)), [10, 20]);
    // The beat after 30 s is lost, the one that follows at its deadline is answered.
    assert_eq!(beat(&mut beats, false), 30);
    assert_eq!(beat(&mut beats, true), 10);
    assert_eq!([0; 3].map(|_| beat(&mut beats, true)), [20, 20, 20]);
    // Traffic while a beat is out: its answer does not grow the interval.
    assert_eq!(beat(&mut beats, false), 20);
    beats.handle_traffic();
    beats.handle_answer(at(200.0));
    assert_eq!(beats.interval(), secs(10.0));
}

#[test]
fn senseless_durations_do_not_spin() {
    let zero =
        HeartbeatConfig { interval: Duration::ZERO, timeout: Duration::ZERO, missed_limit: 0, ..config(Mode::Auto) };
    assert!(drive(&mut heartbeat(zero), 1.0, |_| heard(0.0)).is_some());
    assert_eq!(drive(&mut heartbeat(zero), 1.0, |now| Link { last_received: now, ..heard(0.0) }), None);
    let endless = HeartbeatConfig { interval: Duration::MAX, timeout: Duration::MAX, missed_limit: u32::MAX, ..zero };
    assert_eq!(drive(&mut Heartbeat::new(endless, at(1.0), 0.5), 1e9, |_| heard(0.0)), None);
}

/// A link as a script: what happens to it when, in µs.
#[derive(Clone, Debug)]
struct Script {
    config: HeartbeatConfig,
    jitter: f64,
    /// From a beat leaving to its answer, as a share of the timeout.
    round_trip: f64,
    /// Bytes from the peer of its own accord.
    traffic: BTreeSet<u64>,
    /// Pairs: reads pause, reads resume.
    pauses: BTreeSet<u64>,
    dies: u64,
    /// What is written after death stays in our buffer.
    stuck: bool,
    /// How late timeouts are served.
    late: u64,
}

const HORIZON: u64 = 2_000_000_000;
const TICK: u64 = 10_000;

fn script(modes: &'static [Mode]) -> impl Strategy<Value = Script> {
    let adaptive = (1u64..20_000, 0u64..60_000, 1u64..20_000).prop_map(|(min, more, step)| Adaptive {
        min: Duration::from_millis(min),
        max: Duration::from_millis(min + more),
        step: Duration::from_millis(step),
    });
    let config =
        (100u64..60_000, 100u64..60_000, 1u32..5, prop::sample::select(modes), prop::option::weighted(0.2, adaptive))
            .prop_map(|(interval, timeout, missed_limit, mode, adaptive)| HeartbeatConfig {
                interval: Duration::from_millis(interval),
                timeout: Duration::from_millis(timeout),
                missed_limit,
                mode,
                adaptive,
            });
    (
        config,
        0.0..1.0,
        0.0..0.9,
        prop::collection::btree_set(0..300_000_000u64, 0..40),
        prop::collection::btree_set(0..300_000_000u64, 0..6),
        0..300_000_000u64,
        any::<bool>(),
        prop_oneof![Just(0), 0..TICK],
    )
        .prop_map(|(config, jitter, round_trip, traffic, pauses, dies, stuck, late)| Script {
            config,
            jitter,
            round_trip,
            traffic,
            pauses,
            dies,
            stuck,
            late,
        })
}

struct Outcome {
    died: Option<u64>,
    last_life: u64,
}

/// Plays a script until the horizon or death.
fn play(script: &Script) -> Outcome {
    let mut beats = Heartbeat::new(script.config, Time::ZERO, script.jitter);
    let mut link = heard(0.0);
    let round_trip = (script.config.timeout.as_micros() as f64 * script.round_trip) as u64;
    // Arrivals at our kernel; `true`: answers to beats.
    let mut arrivals: BTreeSet<(u64, bool)> =
        script.traffic.iter().filter(|time| **time <= script.dies).map(|time| (*time, false)).collect();
    let mut pauses: Vec<u64> = script.pauses.iter().rev().copied().collect();
    if pauses.len() % 2 == 1 {
        pauses.remove(0);
    }
    let (mut unread, mut last_life, mut last_timeout) = (false, 0, None);
    loop {
        let timeout = beats.poll_timeout().map_or(u64::MAX, |time| time.as_micros() + script.late);
        let arrival = arrivals.first().map_or(u64::MAX, |(time, _)| *time);
        let toggle = pauses.last().copied().unwrap_or(u64::MAX);
        let now = timeout.min(arrival).min(toggle);
        if now > HORIZON {
            return Outcome { died: None, last_life };
        }
        let time = Time::from_micros(now);
        if toggle == now {
            last_timeout = None;
            pauses.pop();
            link.reads_paused = !link.reads_paused;
            if !link.reads_paused {
                last_life = now;
                if unread {
                    link.last_received = time;
                    unread = false;
                }
                beats.handle_reads_resumed(time);
            }
        } else if arrival == now {
            last_timeout = None;
            if let Some((_, answer)) = arrivals.pop_first() {
                if link.reads_paused {
                    unread = true;
                } else {
                    link.last_received = time;
                    last_life = now;
                    if answer {
                        beats.handle_answer(time);
                    } else {
                        beats.handle_traffic();
                    }
                }
            }
        } else {
            assert!(last_timeout < Some(now) || script.late > 0, "busy loop at {now}: {beats:?}");
            last_timeout = Some(now);
            while let Some(action) = beats.handle_timeout(time, &link) {
                if action == Action::Dead {
                    if let Some(stalled) = link.write_stalled_since.filter(|_| link.reads_paused) {
                        // Only the stall was evidence, and that counts from its start.
                        last_life = last_life.max(stalled.as_micros());
                    }
                    return Outcome { died: Some(now), last_life };
                }
                if now > script.dies && script.stuck {
                    link.write_stalled_since.get_or_insert(time);
                } else {
                    beats.handle_beat_written(time);
                    if now + round_trip <= script.dies {
                        arrivals.insert((now + round_trip, true));
                    }
                }
            }
            assert!(beats.poll_timeout().is_none_or(|next| next > time), "no progress at {now}: {beats:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn a_half_open_link_is_found_in_time(script in script(&[Mode::Auto, Mode::Fixed, Mode::Passive])) {
        let outcome = play(&script);
        let HeartbeatConfig { interval, timeout, missed_limit, adaptive, mode } = script.config;
        let interval = adaptive.map_or(interval, |adaptive| adaptive.max).as_micros() as u64;
        let patience = match mode {
            Mode::Passive => interval * u64::from(missed_limit),
            _ => interval + u64::from(missed_limit) * timeout.as_micros() as u64,
        };
        let served_late = script.late * u64::from(missed_limit + 2);
        let died = outcome.died.expect("found");
        prop_assert!(
            died <= outcome.last_life + patience + served_late,
            "{} after {}, allowed {}", died, outcome.last_life, patience
        );
    }

    #[test]
    fn a_peer_that_answers_in_time_is_never_declared_dead(script in script(&[Mode::Auto, Mode::Fixed])) {
        let outcome = play(&Script { dies: u64::MAX / 2, ..script });
        prop_assert_eq!(outcome.died, None);
    }

    #[test]
    fn keepalive_and_off_never_cut(script in script(&[Mode::Keepalive, Mode::Off])) {
        prop_assert_eq!(play(&script).died, None);
    }
}
