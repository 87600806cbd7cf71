use super::*;

const CLUSTER: u64 = 7;

impl Book {
    /// Hears what a peer says, and goes on by it.
    fn note(&mut self, node: u64, said: Founding, lsn: u64) -> bool {
        self.hear(node, said, lsn);
        self.settle()
    }

    /// As the build before this one would have left it.
    pub(in crate::membership) fn of_older_features(&self) -> Self {
        Self {
            agreed_features: FEATURES.1 - 1,
            ..self.clone()
        }
    }
}

/// A founder, as its peers see it: a card that can be turned into others.
fn card(node: u64, incarnation: u64, life: u64) -> NodeCard {
    NodeCard {
        incarnation,
        start: start(life),
        history: (1..life).map(start).collect(),
        durable_lsn: life * 100,
        syncs: true,
        ..NodeCard::bare(NodeId(node), CLUSTER, 4)
    }
}

/// The nonces of the directories that were never copied.
fn start(life: u64) -> Start {
    Start {
        life,
        nonce: life * 1000,
    }
}

fn new(node: u64) -> Book {
    let mut book = Book::new(node, CLUSTER, 4, node * 11, &[1, 2, 3]);
    book.begin(1000, 500);
    book
}

fn show(book: &mut Book, card: &NodeCard) -> Result<(), Refused> {
    if book.judge(card)? {
        book.record(card);
    }
    Ok(())
}

/// The book of node 1, founded with nodes 2 and 3 in their third lives.
fn founded() -> Book {
    let mut book = new(1);
    for node in [2, 3] {
        show(&mut book, &card(node, node * 11, 3)).expect("nobody is founded yet");
    }
    for node in [2, 3] {
        book.note(node, agreeing(&book), 0);
    }
    assert!(book.is_founded());
    book
}

/// What a founder says that has closed an equal book.
fn agreeing(book: &Book) -> Founding {
    Founding {
        is_closed: true,
        ..book.founding()
    }
}

fn refused(book: &Book, card: &NodeCard) -> &'static str {
    book.judge(card)
        .map_or_else(|refused| refused.name(), |_| "admitted")
}

#[test]
fn another_incarnation_of_a_known_id_is_refused() {
    let book = founded();
    assert_eq!(refused(&book, &card(2, 22, 4)), "admitted");
    assert_eq!(refused(&book, &card(2, 23, 1)), "other_directory");
    assert_eq!(refused(&book, &card(2, 23, 9)), "other_directory");
    assert_eq!(refused(&book, &card(2, 0, 9)), "other_directory");
}

#[test]
fn an_earlier_life_is_refused() {
    let mut book = founded();
    show(&mut book, &card(2, 22, 5)).expect("a later life");
    for life in [1, 3, 4] {
        let late = NodeCard {
            durable_lsn: 1 << 30,
            ..card(2, 22, life)
        };
        assert_eq!(refused(&book, &late), "older_copy", "life {life}");
    }
    assert_eq!(
        refused(&book, &card(2, 22, 5)),
        "admitted",
        "it is that one"
    );
    assert_eq!(refused(&book, &card(2, 22, 6)), "admitted");
}

/// One card with the last number of all was the last one of its node that anybody took.
#[test]
fn a_life_that_no_starting_leads_to_is_refused_and_locks_nobody_out() {
    let mut book = founded();
    for jump in [LIFE_JUMP_MAX + 1, u64::MAX - 3] {
        // Forged with all that a peer has said of itself, but for its history.
        let forged = NodeCard {
            start: Start {
                life: 3 + jump,
                nonce: 1,
            },
            history: Vec::new(),
            ..card(2, 22, 4)
        };
        let refused = Refused::LifeJump {
            node: NodeId(2),
            known: 3,
            shown: 3 + jump,
        };
        assert_eq!(show(&mut book, &forged), Err(refused), "{jump}");
    }
    assert_eq!(refused(&book, &card(2, 22, 4)), "admitted", "the node");
    let mut far = card(2, 22, 3 + LIFE_JUMP_MAX);
    far.history.drain(..far.history.len() - HISTORY_MAX);
    assert_eq!(refused(&book, &far), "admitted", "away for long");
    // Nor at the first meeting, when no number is known.
    let first = NodeCard {
        history: Vec::new(),
        ..card(2, 22, LIFE_JUMP_MAX + 1)
    };
    assert_eq!(refused(&new(1), &first), "life_jump");
}

#[test]
fn the_same_life_with_another_nonce_is_refused() {
    let book = founded();
    let mut copy = card(2, 22, 3);
    copy.start.nonce = 1;
    assert_eq!(refused(&book, &copy), "second_copy");
}

#[test]
fn a_copy_that_was_started_more_often_than_the_original_is_refused() {
    let mut book = founded();
    show(&mut book, &card(2, 22, 5)).expect("a later life");
    // Copied in life 4, and started alone since.
    let mut copy = card(2, 22, 9);
    for start in &mut copy.history[4..] {
        start.nonce += 1;
    }
    assert_eq!(refused(&book, &copy), "older_copy");
    assert_eq!(refused(&book, &card(2, 22, 9)), "admitted", "the original");
}

#[test]
fn a_peer_that_was_away_for_longer_than_the_history_is_admitted() {
    let book = founded();
    let mut late = card(2, 22, 100);
    late.history.drain(..late.history.len() - HISTORY_MAX);
    assert_eq!(refused(&book, &late), "admitted");
    late.durable_lsn = 1;
    assert_eq!(
        refused(&book, &late),
        "older_copy",
        "the log tells it still"
    );
}

#[test]
fn a_log_that_was_durable_further_is_refused() {
    let mut book = founded();
    book.note(2, Founding::default(), 5_000);
    let short = NodeCard {
        durable_lsn: 4_999,
        ..card(2, 22, 4)
    };
    assert_eq!(refused(&book, &short), "older_copy");
    let whole = NodeCard {
        durable_lsn: 5_000,
        ..card(2, 22, 4)
    };
    assert_eq!(refused(&book, &whole), "admitted");
    let unsynced = NodeCard {
        syncs: false,
        ..short
    };
    assert_eq!(refused(&book, &unsynced), "admitted", "it promised less");
    // What it lost so is not held against it later.
    show(&mut book, &unsynced).expect("it promised less");
    let later = NodeCard {
        durable_lsn: 4_999,
        ..card(2, 22, 5)
    };
    assert_eq!(refused(&book, &later), "admitted");
}

#[test]
fn what_a_start_without_syncs_says_of_its_log_is_not_held_against_a_later_one() {
    let of = |life, syncs, durable_lsn| NodeCard {
        durable_lsn,
        syncs,
        ..card(2, 22, life)
    };
    // It writes on for a while, and a power loss takes the last of it.
    let mut book = founded();
    show(&mut book, &of(4, false, 400)).expect("a later life");
    book.note(2, Founding::default(), 1_000);
    assert_eq!(refused(&book, &of(5, true, 900)), "admitted");
    assert_eq!(
        refused(&book, &of(5, true, 299)),
        "older_copy",
        "what was synced before must be there"
    );
    // It is started once more in between, and says what it found.
    show(&mut book, &of(5, false, 1_000)).expect("a later life");
    assert_eq!(refused(&book, &of(6, true, 900)), "admitted");
    show(&mut book, &of(6, true, 900)).expect("it syncs from now on");
    book.note(2, Founding::default(), 950);
    assert_eq!(refused(&book, &of(7, true, 949)), "older_copy");
    // Nor what it says while the book is being written.
    let mut book = founded();
    show(&mut book, &of(4, false, 400)).expect("a later life");
    // As a book that was read again: no card was shown yet.
    book.unsynced.clear();
    let mut next = book.clone();
    next.record(&card(3, 33, 4));
    book.note_syncs(&of(4, false, 400));
    book.note(2, Founding::default(), 1_000);
    next.take_heard(&book);
    next.note(2, Founding::default(), 1_001);
    assert_eq!(refused(&next, &of(5, true, 900)), "admitted");
}

#[test]
fn what_a_log_did_since_its_start_is_not_held_against_that_start() {
    let mut book = founded();
    book.note(2, Founding::default(), 5_000);
    // It connects once more.
    assert_eq!(refused(&book, &card(2, 22, 3)), "admitted");
    let next = NodeCard {
        durable_lsn: 4_999,
        ..card(2, 22, 4)
    };
    assert_eq!(
        refused(&book, &next),
        "older_copy",
        "it is started once more"
    );
}

#[test]
fn a_retired_id_is_refused_and_who_took_part_is_not_retired() {
    let mut book = new(1);
    assert!(book.retire(3));
    assert_eq!(refused(&book, &card(3, 33, 1)), "retired");
    show(&mut book, &card(2, 22, 1)).expect("it is expected");
    book.note(2, agreeing(&book), 0);
    assert!(
        book.is_founded(),
        "two of three are enough by the operator's word"
    );
    assert!(!book.retire(2), "it has taken part");
    assert!(book.retire(3), "it is already");
    assert!(!book.retire(1) && !book.retire(9), "no other founder");
    assert_eq!(refused(&book, &card(3, 33, 1)), "retired");
}

#[test]
fn strangers_are_refused_by_name() {
    let book = founded();
    assert_eq!(refused(&book, &card(9, 1, 1)), "unknown_node");
    assert_eq!(
        refused(&book, &card(1, 11, 1)),
        "unknown_node",
        "its own id"
    );
    let other = NodeCard {
        cluster_id: 8,
        ..card(2, 22, 4)
    };
    assert_eq!(refused(&book, &other), "wrong_cluster");
    let other = NodeCard {
        groups: 5,
        ..card(2, 22, 4)
    };
    assert_eq!(refused(&book, &other), "wrong_groups");
}

#[test]
fn a_lone_node_is_founded_at_once() {
    assert!(Book::new(1, CLUSTER, 4, 11, &[1]).is_founded());
}

#[test]
fn a_majority_does_not_found_a_cluster() {
    let (mut first, mut second) = (new(1), new(2));
    show(&mut first, &card(2, 22, 1)).expect("it is expected");
    show(&mut second, &card(1, 11, 1)).expect("it is expected");
    for _ in 0..4 {
        first.note(2, second.founding(), 0);
        second.note(1, first.founding(), 0);
    }
    assert!(!first.is_founded() && !second.is_founded());
    assert_eq!(first.status().missing, [NodeId(3)]);
    let text = first.status().to_string();
    assert!(
        text.contains("waits for node 3, which it never met"),
        "{text}"
    );
}

#[test]
fn a_founder_counts_once_it_has_met_the_same_ones() {
    let mut book = new(1);
    show(&mut book, &card(2, 22, 1)).expect("it is expected");
    show(&mut book, &card(3, 33, 1)).expect("it is expected");
    let own = book.founding();
    assert!(own.is_complete && !own.is_closed);
    let incomplete = Founding {
        is_complete: false,
        digest: 0,
        ..own
    };
    book.note(2, incomplete, 0);
    book.note(3, own, 0);
    assert!(!book.founding().is_closed);
    assert_eq!(book.status().undecided, [NodeId(2), NodeId(3)]);
    let other = Founding {
        digest: own.digest ^ 1,
        is_closed: true,
        is_founded: true,
        ..own
    };
    book.note(2, other, 0);
    assert!(!book.founding().is_closed, "it met another directory");
    book.note(2, own, 0);
    assert!(book.founding().is_closed && !book.is_founded());
    book.note(2, agreeing(&book), 0);
    assert!(!book.is_founded(), "node 3 may still change its mind");
    book.note(3, agreeing(&book), 0);
    assert!(book.is_founded());
}

#[test]
fn one_founded_peer_with_the_same_founders_is_enough() {
    let mut book = new(1);
    for node in [2, 3] {
        show(&mut book, &card(node, node * 11, 1)).expect("it is expected");
    }
    let told = Founding {
        is_founded: true,
        ..agreeing(&book)
    };
    assert!(book.note(3, told, 0));
    assert!(book.is_founded());
}

#[test]
fn before_the_book_is_closed_a_founder_may_come_with_another_directory() {
    let mut book = new(1);
    show(&mut book, &card(2, 22, 5)).expect("it is expected");
    show(&mut book, &card(3, 33, 1)).expect("it is expected");
    let before = book.founding();
    book.note(2, before, 0);
    show(&mut book, &card(2, 23, 1)).expect("nobody promised anything");
    assert_ne!(book.founding().digest, before.digest);
    book.note(3, before, 0);
    assert!(
        !book.founding().is_closed,
        "what it said was of the other one"
    );
}

#[test]
fn once_the_book_is_closed_it_keeps_to_those_it_met() {
    let mut book = new(1);
    for node in [2, 3] {
        show(&mut book, &card(node, node * 11, 1)).expect("it is expected");
        book.note(node, Founding::default(), 0);
    }
    let own = book.founding();
    book.note(2, own, 0);
    book.note(3, own, 0);
    assert!(book.founding().is_closed && !book.is_founded());
    assert_eq!(refused(&book, &card(2, 23, 1)), "other_directory");
    assert!(!book.retire(3), "others may be founded with it");
    assert_eq!(book.founding(), agreeing(&book));
    assert_eq!(book.founding().digest, own.digest);
}

#[test]
fn starts_are_numbered_and_the_last_ones_kept() {
    let mut book = new(1);
    for nonce in 0..40 {
        book.begin(nonce, 500);
    }
    assert_eq!(
        book.own.start,
        Start {
            life: 41,
            nonce: 39
        }
    );
    assert_eq!(book.own.history.len(), HISTORY_MAX);
    assert_eq!(
        book.own.history.last(),
        Some(&Start {
            life: 40,
            nonce: 38
        })
    );
}

fn of_features(card: NodeCard, max: u32) -> NodeCard {
    NodeCard {
        features: (1, max),
        ..card
    }
}

#[test]
fn what_is_new_is_agreed_on_once_every_member_knows_it_and_for_good() {
    let newest = FEATURES.1;
    let mut book = new(1);
    for node in [2, 3] {
        let old = of_features(card(node, node * 11, 3), newest - 1);
        show(&mut book, &old).expect("nobody is founded yet");
    }
    for node in [2, 3] {
        book.note(node, agreeing(&book), 0);
    }
    assert!(book.is_founded());
    assert_eq!(book.agreed_features(), newest - 1, "nobody else knows it");
    show(&mut book, &card(2, 22, 4)).expect("a newer build");
    assert_eq!(book.agreed_features(), newest - 1, "one does not know it");
    show(&mut book, &card(3, 33, 4)).expect("a newer build");
    assert_eq!(book.agreed_features(), newest);
    let old = of_features(card(2, 22, 5), newest - 1);
    assert_eq!(
        refused(&book, &old),
        "features",
        "it could not read the log"
    );
    let newer = of_features(card(2, 22, 5), newest + 7);
    show(&mut book, &newer).expect("it reads what is written");
    assert_eq!(book.agreed_features(), newest, "this build knows no more");
}

#[test]
fn a_peer_whose_build_has_no_feature_version_in_common_with_this_one_is_refused() {
    let (book, newest) = (founded(), FEATURES.1);
    let of = |features| NodeCard {
        features,
        ..card(2, 22, 4)
    };
    assert_eq!(refused(&book, &of((newest, newest + 3))), "admitted");
    let newer = of((newest + 1, newest + 3));
    assert_eq!(
        book.judge(&newer),
        Err(Refused::Features {
            node: NodeId(1),
            theirs: newest,
            agreed: newest + 1
        }),
        "this node is the one that needs another build"
    );
    let older = Book {
        agreed_features: 0,
        ..book
    };
    assert_eq!(refused(&older, &of((0, FEATURES.0 - 1))), "features");
    assert_eq!(refused(&older, &of((0, FEATURES.0))), "admitted");
}

#[test]
fn nothing_is_agreed_on_before_it_is_certain_who_the_members_are() {
    let mut book = new(1);
    for node in [2, 3] {
        show(&mut book, &card(node, node * 11, 3)).expect("nobody is founded yet");
    }
    assert_eq!(book.agreed_features(), FEATURES.0);
    for node in [2, 3] {
        book.note(node, agreeing(&book), 0);
    }
    assert_eq!(book.agreed_features(), FEATURES.1);
    let alone = Book::new(1, CLUSTER, 4, 11, &[1]);
    assert_eq!(alone.agreed_features(), FEATURES.1, "it has nobody to ask");
}

#[test]
fn the_longest_promise_is_remembered() {
    let mut book = new(1);
    book.begin(2, 9_000);
    book.begin(3, 100);
    assert_eq!(book.promised_ms(), 9_000, "a lease may rest on it");
}
