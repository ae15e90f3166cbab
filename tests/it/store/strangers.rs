//! What strangers feed: adverts, subscribers, relays.

use super::*;

fn advert(n: u32, author: u8) -> NewAdvert<'static> {
    NewAdvert {
        cohort: cohort(n),
        author: key(author),
        event_id: event(n),
        event: r#"{"kind":38327}"#,
        content: "{}",
        network: Network::Signet,
        status: "open",
        created_at: NOW,
        expires: NOW.plus(1_000),
        relay: None,
        seen: NOW.plus(u64::from(n)),
    }
}

#[test]
fn the_newest_advert_of_a_cohort_stands() {
    let mut store = Store::open_in_memory().unwrap();
    let (a, b) = (relay("a"), relay("b"));
    let first = NewAdvert {
        relay: Some(&a),
        ..advert(1, 1)
    };
    let full = NewAdvert {
        event_id: event(2),
        created_at: NOW.plus(1),
        status: "full",
        relay: Some(&b),
        ..first.clone()
    };
    // Same second: the lower id wins, whichever comes first.
    let (low, high) = match event(3).as_bytes() < event(4).as_bytes() {
        true => (event(3), event(4)),
        false => (event(4), event(3)),
    };
    let tie = |id| NewAdvert {
        event_id: id,
        created_at: NOW.plus(5),
        ..first.clone()
    };
    let stranger = NewAdvert {
        author: key(9),
        event_id: event(5),
        created_at: NOW.plus(99),
        ..first.clone()
    };
    store
        .transaction(|tx| {
            assert_eq!(tx.put_advert(&first)?, AdvertPut::New);
            assert_eq!(tx.put_advert(&first)?, AdvertPut::Same);
            assert_eq!(tx.put_advert(&full)?, AdvertPut::Newer);
            assert_eq!(tx.put_advert(&first)?, AdvertPut::Older);
            let row = tx.advert(cohort(1))?.unwrap();
            assert_eq!(
                (&*row.status, row.relays),
                ("full", vec![a.clone(), b.clone()])
            );
            assert_eq!(tx.put_advert(&tie(high))?, AdvertPut::Newer);
            assert_eq!(tx.put_advert(&tie(low))?, AdvertPut::Newer);
            assert_eq!(tx.put_advert(&tie(high))?, AdvertPut::Older);
            assert_eq!(tx.put_advert(&stranger)?, AdvertPut::Older);
            Ok::<_, StoreError>(())
        })
        .unwrap();
    let rows = store.view().adverts(Network::Signet, NOW).unwrap();
    assert_eq!(
        rows.iter().map(|row| row.event_id).collect::<Vec<_>>(),
        [low]
    );
    assert_eq!(rows[0].author, key(1));
    assert_eq!(store.view().adverts(Network::Testnet4, NOW).unwrap(), []);
    assert_eq!(
        store
            .view()
            .adverts(Network::Signet, NOW.plus(1_001))
            .unwrap(),
        []
    );
    let pruned = store
        .transaction(|tx| tx.prune_adverts(NOW.plus(1_001)))
        .unwrap();
    assert_eq!(pruned, 1);

    let long = "x".repeat(ADVERT_BYTES_MAX + 1);
    let error = store
        .transaction(|tx| {
            tx.put_advert(&NewAdvert {
                event: &long,
                ..advert(6, 1)
            })
        })
        .unwrap_err();
    assert!(matches!(error, StoreError::TooLarge { .. }), "{error:?}");
}

#[test]
fn one_author_can_not_fill_the_adverts_and_what_matters_stays() {
    let mut store = Store::open_in_memory().unwrap();
    let per_author = u32::try_from(ADVERTS_PER_AUTHOR_MAX).unwrap();
    store
        .transaction(|tx| {
            // A cohort of the flooder that this agent joined, and an honest author.
            tx.insert_cohort(&NewCohort {
                cohort: cohort(1),
                role: Role::Participant,
                terms: "{}",
                seat_key: Some(key(3)),
                created: NOW,
                state: "joined",
            })?;
            tx.put_advert(&advert(1, 1))?;
            tx.put_advert(&advert(2, 2))?;
            for n in 10..10 + per_author + 50 {
                assert_eq!(tx.put_advert(&advert(n, 1))?, AdvertPut::New);
            }
            Ok::<_, StoreError>(())
        })
        .unwrap();
    let view = store.view();
    let rows = view.adverts(Network::Signet, NOW).unwrap();
    let flooder = rows.iter().filter(|row| row.author == key(1)).count();
    assert_eq!(
        flooder,
        per_author as usize + 1,
        "the share, and the joined one"
    );
    assert!(view.advert(cohort(1)).unwrap().is_some());
    assert!(view.advert(cohort(2)).unwrap().is_some());
    assert!(
        view.advert(cohort(10)).unwrap().is_none(),
        "the oldest went"
    );
    assert!(view.advert(cohort(10 + per_author + 49)).unwrap().is_some());
}

#[test]
fn follows_and_subscribers_are_kept_and_bounded() {
    let mut store = Store::open_in_memory().unwrap();
    let follow = Follow {
        key: key(1),
        relays: vec![relay("a")],
        since: NOW,
    };
    store
        .transaction(|tx| {
            tx.follow(&follow)?;
            tx.follow(&Follow {
                relays: vec![],
                since: NOW.plus(1),
                ..follow.clone()
            })?;
            for n in 1..=3 {
                let added = tx.subscribe(
                    Subscriber {
                        key: key(n),
                        since: NOW,
                    },
                    2,
                )?;
                assert_eq!(added, n <= 2);
            }
            assert!(!tx.subscribe(
                Subscriber {
                    key: key(1),
                    since: NOW
                },
                9
            )?);
            Ok::<_, StoreError>(())
        })
        .unwrap();
    assert_eq!(
        store.view().follows().unwrap(),
        [Follow {
            relays: vec![],
            ..follow
        }]
    );
    assert_eq!(store.view().subscribers().unwrap().len(), 2);
    store
        .transaction(|tx| {
            assert!(tx.unfollow(key(1))? && !tx.unfollow(key(1))?);
            // What was said before the last word changes nothing.
            let again = Subscriber {
                key: key(1),
                since: NOW.plus(9),
            };
            assert!(tx.subscribe(again, 1)? && !tx.unsubscribe(key(1), NOW.plus(8))?);
            assert!(tx.unsubscribe(key(2), NOW)? && !tx.unsubscribe(key(3), NOW)?);
            Ok::<_, StoreError>(())
        })
        .unwrap();
    assert_eq!(store.view().follows().unwrap(), []);
    assert_eq!(store.view().subscribers().unwrap().len(), 1);
}

#[test]
fn relays_are_one_row_each_and_their_health_is_counted() {
    let mut store = Store::open_in_memory().unwrap();
    let slash = RelayUrl::parse("wss://a.example/").unwrap();
    let row = RelayRow {
        url: relay("a"),
        read: true,
        write: false,
        networks: vec![Network::Signet, Network::Regtest],
        source: "relays add".to_owned(),
        added: NOW,
    };
    let reason = "é".repeat(RELAY_REASON_BYTES_MAX);
    store
        .transaction(|tx| {
            tx.put_relay(&row)?;
            tx.put_relay(&RelayRow {
                url: slash.clone(),
                write: true,
                ..row.clone()
            })?;
            tx.relay_failed(&slash, NOW, "connection refused")?;
            tx.relay_failed(&relay("a"), NOW.plus(1), &reason)?;
            tx.relay_ok(&relay("b"), NOW)?;
            tx.set_relay_detail(&relay("b"), r#"{"history":true}"#)
        })
        .unwrap();
    assert_eq!(
        store.view().relays().unwrap(),
        [RelayRow { write: true, ..row }]
    );
    let health = store.view().relay_health().unwrap();
    assert_eq!(health.len(), 2);
    assert_eq!(
        (health[0].failures_in_row, health[0].last_failure),
        (2, Some(NOW.plus(1)))
    );
    let kept = health[0].reason.clone().unwrap();
    assert_eq!(kept, "é".repeat(RELAY_REASON_BYTES_MAX / 2));
    assert_eq!(
        (health[1].last_ok, &*health[1].detail),
        (Some(NOW), r#"{"history":true}"#)
    );
    let pruned = store
        .transaction(|tx| {
            tx.relay_ok(&relay("a"), NOW.plus(2))?;
            tx.prune_relay_health(NOW.plus(10))
        })
        .map_err(|error: StoreError| error)
        .unwrap();
    assert_eq!(pruned, 1, "a was added by hand and stays");
    let health = store.view().relay_health().unwrap();
    assert_eq!(
        (health[0].failures_in_row, health[0].last_ok),
        (0, Some(NOW.plus(2)))
    );
    assert!(store.transaction(|tx| tx.remove_relay(&slash)).unwrap());
    assert_eq!(store.view().relays().unwrap(), []);
}
