//! Exactly-once, in order: each promise of `Sessions`.

use std::collections::BTreeMap;

use crate::common::{Random, Replica, append, image_bytes, length};
use bytes::Bytes;
use quorate_kv::{
    Command, CommandBuffer, CommandError, Map, Outcome, RestoreError, SESSION_WINDOW_BYTES_MAX,
    SESSION_WINDOW_MAX, SessionId, SessionOwner, Sessions, VALUE_BYTES_MAX,
};

fn empty() -> Outcome {
    Outcome::Applied(Bytes::new())
}

#[test]
fn a_repeated_command_gets_the_first_answer_and_has_no_second_effect() {
    let mut replica = Replica::default();
    let session = replica.register(8);
    let first = append(b"k", b"ab").seal(session, 1, 0);
    let second = append(b"k", b"cd").seal(session, 2, 0);
    assert_eq!(replica.apply(&first), length(2));
    assert_eq!(replica.apply(&second), length(4));
    for _ in 0..3 {
        assert_eq!(replica.apply(&second), length(4));
        assert_eq!(replica.apply(&first), length(2));
    }
    assert_eq!(replica.value(b"k").as_deref(), Some(&b"abcd"[..]));
}

#[test]
fn a_gap_is_refused_with_the_number_that_comes_next() {
    let mut replica = Replica::default();
    let session = replica.register(8);
    let outcome = replica.apply(&append(b"k", b"x").seal(session, 2, 0));
    assert_eq!(outcome, Outcome::OutOfOrder { expected: 1 });
    assert_eq!(
        replica.apply(&append(b"k", b"a").seal(session, 1, 0)),
        length(1)
    );
    let outcome = replica.apply(&append(b"k", b"x").seal(session, u64::MAX, 0));
    assert_eq!(outcome, Outcome::OutOfOrder { expected: 2 });
    assert_eq!(replica.value(b"k").as_deref(), Some(&b"a"[..]));
    assert_eq!(
        replica.apply(&append(b"k", b"b").seal(session, 2, 0)),
        length(2)
    );
}

#[test]
fn an_acknowledged_command_is_refused_even_by_an_older_floor() {
    let mut replica = Replica::default();
    let session = replica.register(8);
    for sequence in 1..=4 {
        replica.apply(&append(b"k", b"x").seal(session, sequence, 0));
    }
    replica.apply(&append(b"k", b"x").seal(session, 5, 3));
    for sequence in 1..=3 {
        let again = append(b"k", b"x").seal(session, sequence, 0);
        assert_eq!(replica.apply(&again), Outcome::AlreadyAcknowledged);
    }
    assert_eq!(
        replica.apply(&append(b"k", b"x").seal(session, 4, 0)),
        length(4)
    );
    assert_eq!(replica.value(b"k").map(|value| value.len()), Some(5));
}

#[test]
fn a_floor_beyond_what_arrived_frees_nothing_that_may_be_asked_for() {
    let mut replica = Replica::default();
    let session = replica.register(8);
    replica.apply(&append(b"k", b"x").seal(session, 1, 0));
    let gap = append(b"k", b"x").seal(session, 9, 8);
    assert_eq!(replica.apply(&gap), Outcome::OutOfOrder { expected: 2 });
    assert_eq!(
        replica.apply(&append(b"k", b"y").seal(session, 2, 0)),
        length(2)
    );
    assert_eq!(
        replica.apply(&append(b"k", b"y").seal(session, 2, 0)),
        length(2)
    );
    let ahead = Command::acknowledge(session, 3);
    assert_eq!(replica.apply(&ahead), Outcome::OutOfOrder { expected: 3 });
    assert_eq!(
        replica.apply(&append(b"k", b"y").seal(session, 2, 0)),
        length(2)
    );
    assert_eq!(replica.apply(&Command::acknowledge(session, 2)), empty());
    let again = append(b"k", b"y").seal(session, 2, 0);
    assert_eq!(replica.apply(&again), Outcome::AlreadyAcknowledged);
}

#[test]
fn a_skip_takes_its_place_without_effect() {
    let mut replica = Replica::default();
    let session = replica.register(8);
    assert_eq!(replica.apply(&Command::skip(session, 1, 0)), empty());
    // The command that was withdrawn arrives late: its place is taken.
    assert_eq!(
        replica.apply(&append(b"k", b"x").seal(session, 1, 0)),
        empty()
    );
    assert_eq!(replica.value(b"k"), None);
    assert_eq!(
        replica.apply(&append(b"k", b"y").seal(session, 2, 1)),
        length(1)
    );
    // And a skip that comes after the command gets the command's answer.
    assert_eq!(replica.apply(&Command::skip(session, 2, 1)), length(1));
}

#[test]
fn a_plain_command_is_applied_each_time() {
    let mut replica = Replica::default();
    let command = append(b"k", b"x").seal_plain();
    assert_eq!(replica.apply(&command), length(1));
    assert_eq!(replica.apply(&command), length(2));
    assert_eq!(replica.sessions.session_count(), 0);
}

#[test]
fn a_command_of_no_session_is_never_applied() {
    let mut replica = Replica::default();
    let session = replica.register(8);
    let command = append(b"k", b"x").seal(session, 1, 0);
    assert_eq!(replica.apply(&Command::close(session)), empty());
    assert_eq!(
        replica.apply(&Command::close(session)),
        Outcome::SessionExpired
    );
    assert_eq!(replica.apply(&command), Outcome::SessionExpired);
    let stranger = SessionId(99);
    assert_eq!(
        replica.apply(&append(b"k", b"x").seal(stranger, 1, 0)),
        Outcome::SessionExpired
    );
    assert_eq!(
        replica.apply(&Command::skip(stranger, 1, 0)),
        Outcome::SessionExpired
    );
    assert_eq!(
        replica.apply(&Command::acknowledge(stranger, 0)),
        Outcome::SessionExpired
    );
    assert_eq!(replica.value(b"k"), None);
}

#[test]
fn the_session_whose_last_command_is_oldest_expires_and_is_refused_from_then_on() {
    let mut replica = Replica::default();
    let sessions: Vec<_> = (0..3).map(|_| replica.register(3)).collect();
    let command =
        |session: usize, sequence| append(b"k", b"x").seal(sessions[session], sequence, 0);
    replica.apply(&command(1, 1));
    replica.apply(&command(0, 1));
    replica.apply(&command(2, 1));
    // Each kind of command is a sign of life: a retry, a refused one, an acknowledgement.
    replica.apply(&command(1, 1));
    replica.apply(&Command::acknowledge(sessions[0], 0));
    replica.apply(&command(2, 9));
    replica.apply(&command(0, 1));

    replica.register(3);
    assert_eq!(replica.apply(&command(1, 2)), Outcome::SessionExpired);
    assert_eq!(
        replica.apply(&command(1, 1)),
        Outcome::SessionExpired,
        "rejected, not re-executed"
    );
    assert_eq!(replica.value(b"k").map(|value| value.len()), Some(3));

    // A lower limit lets several go at once: here all but the new one and the last used.
    let newest = replica.register(2);
    assert_eq!(replica.sessions.session_count(), 2);
    assert_eq!(replica.apply(&command(0, 2)), Outcome::SessionExpired);
    assert_eq!(
        replica.apply(&append(b"k", b"y").seal(newest, 1, 0)),
        length(4)
    );
}

#[test]
fn a_full_window_refuses_until_answers_are_acknowledged() {
    let mut replica = Replica::default();
    let session = replica.register(8);
    for sequence in 1..=SESSION_WINDOW_MAX {
        assert_eq!(
            replica.apply(&append(b"k", b"x").seal(session, sequence, 0)),
            length(sequence)
        );
    }
    let next = append(b"k", b"x").seal(session, SESSION_WINDOW_MAX + 1, 0);
    assert_eq!(replica.apply(&next), Outcome::WindowFull);
    assert_eq!(replica.apply(&next), Outcome::WindowFull);
    assert_eq!(replica.restored().apply(&next), Outcome::WindowFull);
    assert_eq!(replica.apply(&Command::acknowledge(session, 1)), empty());
    assert_eq!(replica.apply(&next), length(SESSION_WINDOW_MAX + 1));
    // The floor of a command frees answers before the command needs room.
    let next = append(b"k", b"x").seal(session, SESSION_WINDOW_MAX + 2, 2);
    assert_eq!(replica.apply(&next), length(SESSION_WINDOW_MAX + 2));
}

#[test]
fn kept_answers_are_limited_in_bytes_too() {
    let mut replica = Replica::default();
    let session = replica.register(8);
    let value = vec![7; VALUE_BYTES_MAX];
    replica.apply(&CommandBuffer::put(b"k", &value).unwrap().seal_plain());
    let mut kept_bytes = 0;
    for sequence in 1.. {
        // Refused with the whole current value as its answer.
        let swap = CommandBuffer::compare_and_swap(b"k", None, b"").unwrap();
        match replica.apply(&swap.seal(session, sequence, 0)) {
            Outcome::Applied(answer) => kept_bytes += answer.len(),
            outcome => {
                assert_eq!(outcome, Outcome::WindowFull);
                break;
            }
        }
        assert!(kept_bytes <= SESSION_WINDOW_BYTES_MAX + 2 * VALUE_BYTES_MAX);
    }
    assert!(kept_bytes >= SESSION_WINDOW_BYTES_MAX);
    let restored = replica.restored();
    assert_eq!(restored.sessions.digest(), replica.sessions.digest());
}

#[test]
fn bytes_that_are_no_command_change_nothing() {
    let mut replica = Replica::default();
    replica.register(8);
    let digest = replica.sessions.digest();

    let mut newer = append(b"k", b"x").seal_plain().to_vec();
    newer[0] = 3;
    let newer = Bytes::from(newer);
    assert_eq!(replica.apply(&newer), Outcome::Unsupported);
    let error = Sessions::<Map>::check(&newer);
    assert_eq!(error, Err(CommandError::Unsupported { version: 3 }));
    // The envelope is known, the operation inside is newer.
    let inside = CommandBuffer::new(b"\x07 from the future").seal(SessionId(1), 1, 0);
    assert_eq!(replica.apply(&inside), Outcome::Unsupported);
    let error = Sessions::<Map>::check(&inside);
    assert_eq!(error, Err(CommandError::Unsupported { version: 7 }));
    assert_eq!(
        replica.sessions.digest(),
        digest,
        "not even the index: the replica stops before it"
    );

    assert_eq!(replica.apply(&Bytes::new()), Outcome::Malformed);
    assert_eq!(
        replica.apply(&Bytes::from_static(b"\x01\x04")),
        Outcome::Malformed
    );
    assert_eq!(
        Sessions::<Map>::check(&Bytes::new()),
        Err(CommandError::Malformed)
    );
    let head = Command::Register { sessions_max: 1 };
    assert_eq!(Sessions::<Map>::check(&Command::register(1)), Ok(head));
    assert_eq!(replica.sessions.last_index(), replica.index);
}

#[test]
#[should_panic(expected = "was applied before")]
fn an_index_is_applied_once() {
    let mut replica = Replica::default();
    replica.register(8);
    replica.sessions.apply(1, &Command::register(8));
}

/// `TiKV` #4716 and its kin: a restored replica must know what was applied before the snapshot.
#[test]
fn a_retry_after_a_restore_is_still_applied_once() {
    let mut replica = Replica::default();
    let session = replica.register(8);
    let first = append(b"k", b"x").seal(session, 1, 0);
    let second = append(b"k", b"y").seal(session, 2, 0);
    assert_eq!(replica.apply(&first), length(1));
    assert_eq!(replica.apply(&second), length(2));
    let mut restored = replica.restored();
    assert_eq!(restored.apply(&first), length(1));
    assert_eq!(restored.apply(&second), length(2));
    assert_eq!(restored.value(b"k").as_deref(), Some(&b"xy"[..]));
    assert_eq!(
        restored.apply(&append(b"k", b"z").seal(session, 3, 2)),
        length(3)
    );
    assert_eq!(restored.apply(&second), Outcome::AlreadyAcknowledged);
}

#[test]
fn an_image_shows_sessions_and_machine_at_one_index() {
    let mut replica = Replica::default();
    let session = replica.register(8);
    replica.apply(&append(b"k", b"x").seal(session, 1, 0));
    let image = replica.sessions.image();
    assert_eq!(image.last_index(), replica.index);
    let before = image_bytes(&image);
    replica.apply(&append(b"k", b"y").seal(session, 2, 1));
    replica.register(1);
    assert_eq!(image_bytes(&image), before, "what came later does not show");
    let restored = Sessions::<Map>::restore(&mut &before[..]).unwrap();
    assert_eq!(restored.view().get(b"k").as_deref(), Some(&b"x"[..]));
    assert_eq!(restored.session_count(), 1);
    assert_eq!(image_bytes(&restored.image()), before);
}

#[test]
fn an_idle_session_costs_at_most_64_bytes_in_the_image() {
    let mut replica = Replica::default();
    let idle = 1000;
    let base = replica.image().len();
    for _ in 0..idle {
        let session = replica.register(idle);
        let put = CommandBuffer::put(b"k", b"").unwrap();
        replica.apply(&put.seal(session, 1, 0));
        replica.apply(&append(b"k", b"").seal(session, 2, 1));
    }
    let machine = 8 + 1;
    let per_session = (replica.image().len() - base - machine).div_ceil(idle as usize);
    assert!(per_session <= 64, "{per_session} bytes");
}

#[test]
fn a_session_remembers_its_owner_and_an_image_without_owners_is_of_version_1() {
    let version = |image: &[u8]| u16::from_le_bytes([image[4], image[5]]);
    let mut replica = Replica::default();
    let plain = replica.register(8);
    let before = replica.image();
    assert_eq!(version(&before), 1);
    let owner = SessionOwner::new(7).expect("not zero");
    let Outcome::Registered(owned) = replica.apply(&Command::register_owned(8, owner)) else {
        panic!("a session is made");
    };
    replica.apply(&append(b"k", b"x").seal(owned, 1, 0));
    assert_eq!(version(&replica.image()), 2);
    let mut restored = replica.restored();
    assert_eq!(restored.sessions.owner(owned), Some(owner));
    assert_eq!(restored.sessions.owner(plain), None);
    assert_eq!(restored.sessions.digest(), replica.sessions.digest());
    // The retry is still known, and without owners an image is one that older builds read.
    let again = append(b"k", b"x").seal(owned, 1, 0);
    assert_eq!(restored.apply(&again), length(1));
    assert_eq!(restored.apply(&Command::close(owned)), empty());
    assert_eq!(version(&restored.image()), 1);
}

#[test]
fn an_image_of_another_version_than_its_sessions_is_refused() {
    let mut replica = Replica::default();
    let owner = SessionOwner::new(7).expect("not zero");
    replica.apply(&Command::register_owned(8, owner));
    let good = replica.image();
    let mut bad = good.clone();
    let owner_at = 24 + 4 * 8;
    bad[owner_at..owner_at + 8].fill(0);
    let restored = Sessions::<Map>::restore(&mut &bad[..]);
    assert!(matches!(restored, Err(RestoreError::Malformed { .. })));
    bad = good;
    bad[4] = 3;
    let restored = Sessions::<Map>::restore(&mut &bad[..]);
    let Err(RestoreError::Unsupported { version: 3, .. }) = restored else {
        panic!("a newer version is named");
    };
}

#[test]
fn the_digest_sees_machine_sessions_and_index() {
    let build = |token: &[u8], floor, idle: bool| {
        let mut replica = Replica::default();
        let session = replica.register(8);
        replica.apply(&append(b"k", token).seal(session, 1, 0));
        replica.apply(&append(b"k", b"").seal(session, 2, floor));
        if idle {
            replica.apply(&Bytes::new());
        }
        replica.sessions.digest()
    };
    let digest = build(b"a", 0, false);
    assert_eq!(build(b"a", 0, false), digest);
    assert_ne!(build(b"b", 0, false), digest);
    assert_ne!(build(b"a", 1, false), digest);
    assert_ne!(build(b"a", 0, true), digest);
}

#[test]
fn an_image_that_breaks_a_rule_is_refused() {
    let mut replica = Replica::default();
    let session = replica.register(8);
    replica.apply(&append(b"k", b"x").seal(session, 1, 0));
    let image = replica.image();
    let restore = |image: &[u8]| Sessions::<Map>::restore(&mut &image[..]).map(|_| ());
    assert!(restore(&image).is_ok());

    let changed = |offset: usize, value: u8| {
        let mut other = image.clone();
        assert_ne!(other[offset], value);
        other[offset] = value;
        restore(&other)
    };
    let (last_index_at, session_at) = (8, 24);
    for (name, offset, value) in [
        ("magic", 0, 0),
        ("reserved", 6, 1),
        ("last index before a session's use", last_index_at, 1),
        ("id zero", session_at, 0),
        ("id after its last use", session_at, 3),
        ("more commands than indexes since", session_at + 8, 2),
        ("floor above last", session_at + 16, 2),
        ("an answer fewer than above the floor", session_at + 16, 1),
        ("used after the last index", session_at + 24, 3),
        ("an answer longer than all of them", session_at + 36, 0xff),
    ] {
        let result = changed(offset, value);
        assert!(
            matches!(result, Err(RestoreError::Malformed { .. })),
            "{name}: {result:?}"
        );
    }
    // The floor moves along, so that the kept answers are right and only the commands too many.
    let mut other = image.clone();
    (other[session_at + 8], other[session_at + 16]) = (2, 1);
    assert!(
        matches!(restore(&other), Err(RestoreError::Malformed { .. })),
        "2 commands, 1 index"
    );

    let result = changed(4, 3);
    assert!(
        matches!(result, Err(RestoreError::Unsupported { version: 3, .. })),
        "{result:?}"
    );
    let mut longer = image.clone();
    longer.push(0);
    assert!(matches!(
        restore(&longer),
        Err(RestoreError::Malformed { .. })
    ));
    for len in 0..image.len() {
        let result = restore(&image[..len]);
        assert!(
            matches!(result, Err(RestoreError::Truncated)),
            "cut to {len}: {result:?}"
        );
    }
}

#[test]
fn an_image_in_which_two_sessions_were_used_at_one_index_is_refused() {
    let mut replica = Replica::default();
    replica.register(8);
    replica.register(8);
    let mut image = replica.image();
    let second_last_use_at = 24 + 36 + 24;
    assert_eq!(image[second_last_use_at], 2);
    let first_last_use_at = 24 + 24;
    image[first_last_use_at] = 2;
    let result = Sessions::<Map>::restore(&mut &image[..]);
    assert!(matches!(result, Err(RestoreError::Malformed { .. })));
}

/// What a client sent and what it must be answered, kept by the plainest means.
#[derive(Default)]
struct Client {
    session: SessionId,
    next: u64,
    floor: u64,
    sent: BTreeMap<u64, (Bytes, Outcome)>,
}

#[test]
fn replicas_agree_and_clients_get_first_answers_through_random_histories() {
    for seed in 0..20 {
        let mut random = Random::new(seed);
        let (mut replica, mut other) = (Replica::default(), Replica::default());
        let mut clients: Vec<Client> = Vec::new();
        let mut live: BTreeMap<SessionId, u64> = BTreeMap::new();
        for _ in 0..600 {
            let sessions_max = 3 + random.below(2) as u32;
            let (command, expected) = match random.below(12) {
                0 => register(&mut clients, &mut live, sessions_max, replica.index + 1),
                _ if clients.is_empty() => continue,
                choice => {
                    let at = random.below(clients.len() as u64) as usize;
                    client_step(&mut random, choice, &mut clients[at], &mut live, &replica)
                }
            };
            let outcome = replica.apply(&command);
            assert_eq!(other.apply(&command), outcome);
            assert_eq!(outcome, expected, "index {}", replica.index);
            assert_eq!(replica.sessions.session_count(), live.len());
            if random.below(40) == 0 {
                other = replica.restored();
            }
            assert_eq!(replica.sessions.digest(), other.sessions.digest());
        }
    }
}

fn register(
    clients: &mut Vec<Client>,
    live: &mut BTreeMap<SessionId, u64>,
    sessions_max: u32,
    index: u64,
) -> (Bytes, Outcome) {
    let session = SessionId(index);
    live.insert(session, index);
    while live.len() > sessions_max as usize {
        let oldest = *live
            .iter()
            .min_by_key(|(_, used)| **used)
            .expect("not empty")
            .0;
        live.remove(&oldest);
    }
    clients.push(Client {
        session,
        next: 1,
        ..Client::default()
    });
    (
        Command::register(sessions_max),
        Outcome::Registered(session),
    )
}

fn client_step(
    random: &mut Random,
    choice: u64,
    client: &mut Client,
    live: &mut BTreeMap<SessionId, u64>,
    replica: &Replica,
) -> (Bytes, Outcome) {
    let index = replica.index + 1;
    let session = client.session;
    let expired = !live.contains_key(&session);
    if !expired {
        live.insert(session, index);
    }
    let or_expired = |outcome| {
        if expired {
            Outcome::SessionExpired
        } else {
            outcome
        }
    };
    match choice {
        1 => {
            live.remove(&session);
            (Command::close(session), or_expired(empty()))
        }
        2 => {
            let ahead = client.next + 1 + random.below(3);
            let outcome = Outcome::OutOfOrder {
                expected: client.next,
            };
            (
                append(b"k", b"x").seal(session, ahead, client.floor),
                or_expired(outcome),
            )
        }
        3 | 4 if !client.sent.is_empty() => {
            let (sequence, (command, first)) = client
                .sent
                .iter()
                .nth(random.below(client.sent.len() as u64) as usize)
                .expect("not empty");
            let forgotten = *sequence <= client.floor;
            let outcome = if forgotten {
                Outcome::AlreadyAcknowledged
            } else {
                first.clone()
            };
            (command.clone(), or_expired(outcome))
        }
        _ => {
            let floor = client.floor + random.below(client.next - client.floor);
            let command = append(b"k", b"x").seal(session, client.next, floor);
            let before = replica.value(b"k").map_or(0, |value| value.len() as u64);
            if !expired {
                client.floor = floor;
                client
                    .sent
                    .insert(client.next, (command.clone(), length(before + 1)));
                client.next += 1;
            }
            (command, or_expired(length(before + 1)))
        }
    }
}

/// A leader that took it counted one further, and overflowed.
#[test]
fn the_last_sequence_number_of_all_is_refused_before_it_enters_a_log() {
    let session = SessionId(7);
    for floor in [0, 5, u64::MAX - 1] {
        for command in [
            append(b"k", b"x").seal(session, u64::MAX, floor),
            Command::skip(session, u64::MAX, floor),
        ] {
            let checked = Sessions::<Map>::check(&command);
            assert_eq!(checked, Err(CommandError::Malformed));
            // In a log it means what it always meant.
            assert!(Command::decode(&command).is_ok());
        }
    }
    let last = append(b"k", b"x").seal(session, u64::MAX - 1, 0);
    assert!(Sessions::<Map>::check(&last).is_ok());
}
