//! What is kept of cohorts, messages, artifacts, DIDs and updates.

use super::*;

#[test]
fn the_log_replays_one_cohort_and_role_in_order() {
    let mut store = Store::open_in_memory().unwrap();
    store
        .transaction(|tx| {
            for n in 1..=9_u32 {
                let input = format!(r#"{{"n":{n}}}"#);
                let role = if n % 3 == 0 {
                    Role::Aggregator
                } else {
                    Role::Participant
                };
                let seq = tx.append(&NewLogEntry {
                    role,
                    ..entry(cohort(n % 2), &input)
                })?;
                assert_eq!(seq, u64::from(n));
            }
            Ok::<_, StoreError>(())
        })
        .unwrap();
    let inputs = |role, cohort| {
        let mut seen = Vec::new();
        store
            .view()
            .replay(cohort, role, |entry| {
                assert_eq!(
                    (entry.at, &*entry.kind, &*entry.outcome),
                    (NOW, "advert", "accepted")
                );
                seen.push(entry.seq);
                Ok::<_, StoreError>(())
            })
            .unwrap();
        seen
    };
    assert_eq!(inputs(Role::Participant, cohort(1)), [1, 5, 7]);
    assert_eq!(inputs(Role::Aggregator, cohort(1)), [3, 9]);
    assert_eq!(inputs(Role::Participant, cohort(0)), [2, 4, 8]);
    let tail = store
        .view()
        .log_tail(cohort(1), Role::Participant, 2)
        .unwrap();
    assert_eq!(tail.iter().map(|e| e.seq).collect::<Vec<_>>(), [5, 7]);
    assert_eq!(
        store
            .view()
            .log_counts(cohort(1), Role::Participant)
            .unwrap(),
        [("advert".to_owned(), "accepted".to_owned(), 3)]
    );

    // An error of the replayer stops it and is handed back as it is.
    #[derive(Debug)]
    enum Mine {
        Store(#[allow(dead_code)] StoreError),
        Enough(u64),
    }
    impl From<StoreError> for Mine {
        fn from(error: StoreError) -> Self {
            Self::Store(error)
        }
    }
    let stopped = store.view().replay(cohort(1), Role::Participant, |entry| {
        Err(Mine::Enough(entry.seq))
    });
    assert!(matches!(stopped, Err(Mine::Enough(1))), "{stopped:?}");
}

#[test]
fn cohorts_are_projections_with_one_beginning_and_one_end() {
    let mut store = Store::open_in_memory().unwrap();
    let new = NewCohort {
        cohort: cohort(1),
        role: Role::Aggregator,
        terms: r#"{"v":1}"#,
        seat_key: None,
        created: NOW,
        state: "forming",
    };
    let participant = NewCohort {
        role: Role::Participant,
        seat_key: Some(key(3)),
        created: NOW.plus(1),
        ..new
    };
    store
        .transaction(|tx| {
            tx.insert_cohort(&new)?;
            tx.insert_cohort(&participant)?;
            tx.set_cohort_state(cohort(1), Role::Aggregator, "frozen")?;
            tx.insert_cohort(&new)?;
            assert_eq!(
                tx.cohort(cohort(1), Role::Aggregator)?.unwrap().state,
                "frozen"
            );
            tx.end_cohort(
                cohort(1),
                Role::Aggregator,
                "cancelled",
                NOW.plus(2),
                "by me",
            )?;
            tx.end_cohort(cohort(1), Role::Aggregator, "failed", NOW.plus(9), "again")?;
            Ok::<_, StoreError>(())
        })
        .unwrap();
    let rows = store.view().cohorts().unwrap();
    assert_eq!(rows.len(), 2);
    assert_eq!(rows[0].ended, Some((NOW.plus(2), "by me".to_owned())));
    assert_eq!(rows[0].state, "cancelled");
    assert_eq!(rows[1].seat_key, Some(key(3)));
    assert_eq!(store.view().live_cohorts().unwrap(), rows[1..]);
    let prefix = cohort(1).short();
    assert_eq!(store.view().cohorts_starting_with(&prefix).unwrap(), rows);
    assert_eq!(store.view().cohorts_starting_with("ffff%").unwrap(), []);

    let other = NewCohort {
        seat_key: Some(key(4)),
        ..participant
    };
    let error = store
        .transaction(|tx| tx.insert_cohort(&other))
        .unwrap_err();
    assert!(matches!(error, StoreError::CohortConflict { .. }));
    let error = store
        .transaction(|tx| tx.set_cohort_state(cohort(2), Role::Aggregator, "frozen"))
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("the store has no cohort {}", cohort(2).short())
    );
}

#[test]
fn transactions_keep_their_bytes_and_follow_the_chain_both_ways() {
    let mut store = Store::open_in_memory().unwrap();
    let new = NewTransaction {
        txid: txid(1),
        cohort: cohort(1),
        round: Round(2),
        raw: b"raw",
        state: "signed",
        created: NOW,
    };
    store
        .transaction(|tx| {
            tx.insert_transaction(&new)?;
            tx.set_transaction_state(txid(1), "confirmed", Some(812_345))?;
            tx.insert_transaction(&NewTransaction {
                raw: b"other",
                ..new
            })
        })
        .unwrap();
    let row = store.view().transaction(txid(1)).unwrap().unwrap();
    assert_eq!(
        (&*row.raw, &*row.state, row.height),
        (&b"raw"[..], "confirmed", Some(812_345))
    );
    assert_eq!(
        store.view().transactions_of(cohort(1)).unwrap(),
        std::slice::from_ref(&row)
    );
    assert_eq!(store.view().transactions_in("confirmed").unwrap(), [row]);
    store
        .transaction(|tx| tx.set_transaction_state(txid(1), "signed", None))
        .unwrap();
    let row = store.view().transaction(txid(1)).unwrap().unwrap();
    assert_eq!((&*row.state, row.height), ("signed", None));
    assert_eq!(store.view().transactions_in("confirmed").unwrap(), []);
}

#[test]
fn a_sequence_number_of_a_lane_is_one_undone_event() {
    let mut store = Store::open_in_memory().unwrap();
    let first = outbox(1, Some((lane(), 1)));
    let advert = NewOutboxRow {
        cohort: None,
        ..outbox(7, None)
    };
    store
        .transaction(|tx| {
            tx.insert_outbox(&first)?;
            tx.insert_outbox(&first)?;
            tx.insert_outbox(&outbox(2, Some((lane(), 2))))?;
            tx.insert_outbox(&advert)
        })
        .unwrap();
    let conflict = store
        .transaction(|tx| tx.insert_outbox(&outbox(3, Some((lane(), 1)))))
        .unwrap_err();
    assert!(matches!(conflict, StoreError::OutboxConflict { seq: 1 }));

    let again = NewOutboxRow {
        created: NOW.plus(30),
        ..outbox(3, Some((lane(), 1)))
    };
    store
        .transaction(|tx| {
            tx.replace_outbox(event(1), &again)?;
            tx.set_outbox_state(event(2), r#"{"acked":true}"#, true)
        })
        .unwrap();
    let pending = store.view().outbox_pending().unwrap();
    let ids: Vec<_> = pending.iter().map(|row| row.event_id).collect();
    assert_eq!(ids, [event(7), event(3)], "in the order they were stored");
    assert_eq!(pending[0].lane, None);
    assert_eq!(pending[1].lane, Some((lane(), 1)));
    assert_eq!(pending[1].created, NOW.plus(30));
    assert_eq!(pending[1].event, r#"{"kind":8327}"#);
    let all = store.view().outbox_of(cohort(1)).unwrap();
    assert_eq!(
        all.iter().map(|row| row.done).collect::<Vec<_>>(),
        [true, true, false]
    );
    assert_eq!(all[1].state, r#"{"acked":true}"#);

    let pruned = store
        .transaction(|tx| tx.prune_outbox(NOW.plus(61)))
        .unwrap();
    assert_eq!(pruned, 2, "what is done and expired; never what is pending");
    assert_eq!(store.view().outbox_pending().unwrap().len(), 2);
}

#[test]
fn lanes_keep_their_last_state() {
    let mut store = Store::open_in_memory().unwrap();
    let back = Lane {
        author: key(2),
        recipient: key(1),
        ..lane()
    };
    store
        .transaction(|tx| {
            tx.set_lane(lane(), r#"{"seq":1}"#)?;
            tx.set_lane(lane(), r#"{"seq":2}"#)?;
            tx.set_lane(back, r#"{"seq":9}"#)
        })
        .unwrap();
    assert_eq!(store.view().lane(lane()).unwrap().unwrap(), r#"{"seq":2}"#);
    assert_eq!(store.view().lanes_of(cohort(1)).unwrap().len(), 2);
    assert_eq!(store.view().lanes_of(cohort(2)).unwrap(), []);
}

#[test]
fn the_incarnation_rises_above_everything_seen() {
    let mut store = Store::open_in_memory().unwrap();
    let note = MetaKey::new("last_advert");
    let raised = store
        .transaction(|tx| {
            assert_eq!(tx.raise_incarnation(0)?, 2);
            tx.set_meta(note, "1")?;
            tx.set_meta(note, "2")?;
            tx.raise_incarnation(40)
        })
        .map_err(|error: StoreError| error)
        .unwrap();
    assert_eq!(raised, 41);
    assert_eq!(store.view().incarnation().unwrap(), 41);
    assert_eq!(store.view().meta(note).unwrap().as_deref(), Some("2"));
    assert_eq!(store.view().meta(MetaKey::new("other")).unwrap(), None);
}

#[test]
fn artifacts_are_stored_once_and_never_replaced() {
    let mut store = Store::open_in_memory().unwrap();
    let put = store
        .transaction(|tx| tx.put_artifact(&proof(b"the proof")))
        .unwrap();
    assert_eq!(put, Put::Stored);
    let put = store
        .transaction(|tx| tx.put_artifact(&proof(b"the proof")))
        .unwrap();
    assert_eq!(put, Put::AlreadyThere);
    let error = store
        .transaction(|tx| tx.put_artifact(&proof(b"another")))
        .unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, StoreError::ArtifactConflict { .. }));
    assert!(
        text.contains("smt_proof of index:") && text.contains(&"09".repeat(32)),
        "{text}"
    );

    let key = proof(b"").key;
    let found = store
        .view()
        .artifact(key.kind, &key.subject, key.signal)
        .unwrap()
        .unwrap();
    assert_eq!(found.bytes, b"the proof");
    assert_eq!(found.key, key);
    assert_eq!(found.txid, Some(txid(4)));
    let missing = store
        .view()
        .artifact(key.kind, &key.subject, Some(signal(1)))
        .unwrap();
    assert_eq!(missing, None);
}

#[test]
fn everything_about_a_did_is_found_by_name_and_by_index() {
    let mut store = Store::open_in_memory().unwrap();
    let at = |round, subject, kind, signal| ArtifactKey {
        origin: Some((cohort(1), Round(round))),
        subject,
        kind,
        signal,
    };
    let named = Subject::Did(DID.to_owned());
    let keys = [
        ArtifactKey {
            origin: None,
            subject: named.clone(),
            kind: ArtifactKind::GenesisDocument,
            signal: None,
        },
        at(
            2,
            named.clone(),
            ArtifactKind::SignedUpdate,
            Some(signal(2)),
        ),
        proof(b"").key,
        at(
            3,
            Subject::Round,
            ArtifactKind::CasAnnouncement,
            Some(signal(9)),
        ),
        at(
            4,
            Subject::Transaction(txid(4)),
            ArtifactKind::RawTx,
            Some(signal(9)),
        ),
        at(
            5,
            Subject::Did("did:btcr2:k1other".to_owned()),
            ArtifactKind::SignedUpdate,
            None,
        ),
    ];
    store
        .transaction(|tx| {
            for key in &keys {
                let new = NewArtifact {
                    key: key.clone(),
                    txid: None,
                    bytes: b"same bytes",
                    created: NOW,
                };
                assert_eq!(tx.put_artifact(&new)?, Put::Stored);
                assert_eq!(tx.put_artifact(&new)?, Put::AlreadyThere);
            }
            Ok::<_, StoreError>(())
        })
        .unwrap();
    let of_did = store.view().artifacts_of_did(DID).unwrap();
    assert_eq!(
        of_did.iter().map(|a| a.key.clone()).collect::<Vec<_>>(),
        keys[..3]
    );
    let later = store
        .view()
        .artifacts_of_cohort(cohort(1), Round(3))
        .unwrap();
    assert_eq!(
        later.iter().map(|a| a.key.clone()).collect::<Vec<_>>(),
        keys[2..]
    );
}

#[test]
fn one_update_per_did_and_target_version() {
    let mut store = Store::open_in_memory().unwrap();
    let orphan = store
        .transaction(|tx| tx.insert_update(&update(b"a")))
        .unwrap_err();
    assert!(
        matches!(orphan, StoreError::Rule { .. }),
        "the DID comes first: {orphan:?}"
    );
    store
        .transaction(|tx| {
            tx.put_did(&did())?;
            assert_eq!(tx.insert_update(&update(b"a"))?, Put::Stored);
            assert_eq!(tx.insert_update(&update(b"a"))?, Put::AlreadyThere);
            let next = NewUpdate {
                target_version: 3,
                ..update(b"c")
            };
            assert_eq!(tx.insert_update(&next)?, Put::Stored);
            Ok::<_, StoreError>(())
        })
        .unwrap();
    let conflict = store
        .transaction(|tx| tx.insert_update(&update(b"b")))
        .unwrap_err();
    assert!(matches!(
        conflict,
        StoreError::UpdateConflict {
            target_version: 2,
            ..
        }
    ));

    // Before a partial left, another update may take its place; after, only when the signal died.
    let put = store
        .transaction(|tx| tx.supersede_update(&update(b"b")))
        .unwrap();
    assert_eq!(put, Put::Stored);
    store.transaction(|tx| tx.pin_update(DID, 2, true)).unwrap();
    let conflict = store
        .transaction(|tx| tx.supersede_update(&update(b"a")))
        .unwrap_err();
    assert!(matches!(
        conflict,
        StoreError::UpdateConflict {
            target_version: 2,
            ..
        }
    ));
    let put = store
        .transaction(|tx| tx.supersede_update(&update(b"b")))
        .unwrap();
    assert_eq!(put, Put::AlreadyThere);

    let mut row = store.view().update(DID, 2).unwrap().unwrap();
    assert_eq!((&*row.bytes, row.pinned), (&b"b"[..], true));
    row.state = "announced".to_owned();
    row.round = Some(Round(6));
    row.txid = Some(txid(8));
    row.reason = Some("waits for a block".to_owned());
    row.bytes = b"not written".to_vec();
    store.transaction(|tx| tx.set_update_state(&row)).unwrap();
    let stored = store.view().update(DID, 2).unwrap().unwrap();
    assert_eq!(
        stored,
        UpdateRow {
            bytes: b"b".to_vec(),
            ..row
        }
    );
    assert_eq!(store.view().updates_in("announced").unwrap(), [stored]);

    store
        .transaction(|tx| tx.pin_update(DID, 2, false))
        .unwrap();
    let put = store
        .transaction(|tx| tx.supersede_update(&update(b"a")))
        .unwrap();
    assert_eq!(put, Put::Stored);
    let versions: Vec<_> = store.view().updates_of(DID).unwrap();
    assert_eq!(
        versions
            .iter()
            .map(|u| u.target_version)
            .collect::<Vec<_>>(),
        [2, 3]
    );
    assert_eq!(versions[0].bytes, b"a");
}

#[test]
fn a_pinned_update_resists_a_shell_too() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.sqlite");
    let mut store = Store::open(&path).unwrap();
    store
        .transaction(|tx| {
            tx.put_did(&did())?;
            tx.insert_update(&update(b"a"))?;
            tx.pin_update(DID, 2, true)
        })
        .unwrap();
    let shell = shell(&path);
    for sql in ["UPDATE updates SET bytes = x'00'", "DELETE FROM updates"] {
        assert!(
            shell
                .execute(sql, [])
                .unwrap_err()
                .to_string()
                .contains("pinned update")
        );
    }
}

#[test]
fn dids_keep_their_origin_and_change_their_document() {
    let mut store = Store::open_in_memory().unwrap();
    assert_eq!(store.view().next_key_index().unwrap(), 0);
    let changed = DidRow {
        document: r#"{"id":"x"}"#.to_owned(),
        version: 2,
        state: "deactivated".to_owned(),
        kind: "other".to_owned(),
        genesis: None,
        key_index: Some(1),
        ..did()
    };
    store
        .transaction(|tx| {
            tx.put_did(&did())?;
            tx.put_did(&changed)
        })
        .unwrap();
    let expected = DidRow {
        document: changed.document.clone(),
        version: 2,
        state: changed.state.clone(),
        ..did()
    };
    assert_eq!(store.view().did(DID).unwrap(), Some(expected.clone()));
    assert_eq!(store.view().dids().unwrap(), [expected]);
    assert_eq!(store.view().next_key_index().unwrap(), 5);
}

#[test]
fn keys_of_a_did_are_numbers_that_are_never_given_twice() {
    let mut store = Store::open_in_memory().unwrap();
    let key = |key_index, name: &str| DidKeyRow {
        did: DID.to_owned(),
        key_index,
        name: format!("{DID}#{name}"),
        created: NOW,
    };
    let orphan = store.transaction(|tx| tx.put_did_key(&key(0, "initialKey")));
    assert!(matches!(orphan.unwrap_err(), StoreError::Rule { .. }));
    store
        .transaction(|tx| {
            tx.put_did(&did())?;
            tx.put_did_key(&key(9, "key-2"))?;
            tx.put_did_key(&key(4, "initialKey"))?;
            tx.put_did_key(&key(9, "another"))
        })
        .unwrap();
    let keys = store.view().did_keys(DID).unwrap();
    assert_eq!(keys, [key(4, "initialKey"), key(9, "key-2")]);
    assert_eq!(store.view().next_key_index().unwrap(), 10);
    assert_eq!(store.view().did_keys("did:btcr2:other").unwrap(), []);
}

#[test]
fn what_is_adopted_replaces_what_was() {
    let mut store = Store::open_in_memory().unwrap();
    let adopted = |version| AdoptedRow {
        did: DID.to_owned(),
        version,
        document: "{}".to_owned(),
        adopted: NOW,
    };
    store
        .transaction(|tx| {
            tx.put_did(&did())?;
            tx.adopt(&adopted(3))?;
            tx.adopt(&adopted(4))
        })
        .unwrap();
    assert_eq!(store.view().adopted(DID).unwrap(), Some(adopted(4)));
    let text = AdoptedRow {
        document: "not JSON".to_owned(),
        ..adopted(5)
    };
    assert!(store.transaction(|tx| tx.adopt(&text)).is_err());
}

#[test]
fn an_update_is_withdrawn_unless_it_is_pinned() {
    let mut store = Store::open_in_memory().unwrap();
    let two = |tx: &Tx<'_>| tx.withdraw_update(DID, 2);
    assert!(matches!(
        store.transaction(two).unwrap_err(),
        StoreError::Missing { .. }
    ));
    store
        .transaction(|tx| {
            tx.put_did(&did())?;
            tx.insert_update(&update(b"a"))?;
            tx.withdraw_update(DID, 2)?;
            let put = tx.insert_update(&NewUpdate {
                cohort: None,
                service: Some("did:btcr2:x#beacon"),
                ..update(b"b")
            })?;
            assert_eq!(put, Put::Stored);
            tx.pin_update(DID, 2, true)
        })
        .unwrap();
    assert!(matches!(
        store.transaction(two).unwrap_err(),
        StoreError::Rule { .. }
    ));
    let mut row = store.view().update(DID, 2).unwrap().unwrap();
    assert_eq!(
        (row.cohort, row.service.as_deref()),
        (None, Some("did:btcr2:x#beacon"))
    );
    (row.height, row.service) = (Some(7), None);
    store.transaction(|tx| tx.set_update_state(&row)).unwrap();
    assert_eq!(store.view().update(DID, 2).unwrap(), Some(row));
}

#[test]
fn updates_that_may_move_are_watched() {
    let mut store = Store::open_in_memory().unwrap();
    store
        .transaction(|tx| {
            tx.put_did(&did())?;
            for (version, state) in [
                (2, "final"),
                (3, "signed"),
                (4, "dead"),
                (5, "final"),
                (6, "final"),
            ] {
                tx.insert_update(&NewUpdate {
                    target_version: version,
                    state,
                    ..update(b"a")
                })?;
            }
            Ok::<_, StoreError>(())
        })
        .unwrap();
    let watched = |last| -> Vec<u64> {
        let rows = store
            .view()
            .updates_to_watch(DID, ("final", "dead"), last)
            .unwrap();
        rows.iter().map(|row| row.target_version).collect()
    };
    assert_eq!(watched(0), [3]);
    assert_eq!(watched(1), [3, 6]);
    assert_eq!(watched(9), [2, 3, 4, 5, 6]);
}

#[test]
fn bindings_learn_a_did_and_keep_their_first_round() {
    let mut store = Store::open_in_memory().unwrap();
    let index = SmtIndex::from_bytes(sha256(DID.as_bytes()));
    let first = Binding {
        cohort: cohort(1),
        role: Role::Aggregator,
        index,
        did: None,
        from_round: Round(2),
        state: "registered".to_owned(),
    };
    let learned = Binding {
        did: Some(DID.to_owned()),
        from_round: Round(5),
        state: "proved".to_owned(),
        ..first.clone()
    };
    store
        .transaction(|tx| {
            tx.put_binding(&first)?;
            tx.put_binding(&learned)?;
            tx.put_binding(&Binding {
                did: None,
                ..learned.clone()
            })
        })
        .unwrap();
    let expected = Binding {
        from_round: Round(2),
        ..learned
    };
    let view = store.view();
    assert_eq!(
        view.bindings_of_cohort(cohort(1), Role::Aggregator)
            .unwrap(),
        std::slice::from_ref(&expected)
    );
    assert_eq!(view.bindings_of(index).unwrap(), [expected]);
    assert_eq!(
        view.bindings_of_cohort(cohort(1), Role::Participant)
            .unwrap(),
        []
    );
}
