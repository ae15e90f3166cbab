//! What members can publish to content-addressed storage.

use std::time::Duration;

use btcr2_agent::agent::publishing::{Publishable, Selection};
use btcr2_agent::cas::{CasPublisher, CasReader, DEFAULT_TIMEOUT};
use btcr2_agent::chain::ChainBackend;
use btcr2_agent::did::json::cid;
use btcr2_agent::lookup::Lookup;
use btcr2_agent::protocol::terms::CohortBeacon;
use btcr2_agent::resolver::{CasKind, DEFAULT_MIN_CONF, ResolutionOptions, Sidecar, Strictness};

use super::company::{Company, Known};
use super::play::Play;
use crate::cas::ipfs::Ipfs;

const ALL: Selection = Selection {
    updates: true,
    announcements: true,
    genesis: true,
};

async fn publishable(
    play: &Play,
    company: &Company,
    place: usize,
    selection: Selection,
) -> Publishable {
    let Known { member, did, .. } = company.dids[place].clone();
    play.ask(member, move |agent| agent.publishable(&did, selection))
        .await
}

fn kinds(found: &Publishable) -> Vec<(CasKind, Option<u64>)> {
    let kind = |object: &btcr2_agent::agent::publishing::Publication| (object.kind, object.version);
    found.objects.iter().map(kind).collect()
}

#[tokio::test]
async fn what_is_published_is_all_that_a_resolver_of_a_cas_beacon_needs() {
    const GENESIS: (CasKind, Option<u64>) = (CasKind::GenesisDocument, None);
    const ANNOUNCEMENT: (CasKind, Option<u64>) = (CasKind::Announcement, None);
    let mut play = Play::open(3).await;
    let mut company = play.found(CohortBeacon::Cas, 0, &[1, 2]).await;
    let dids = play.create_dids(&mut company, &[1, 2]).await;
    assert_eq!(
        kinds(&publishable(&play, &company, dids[0], ALL).await),
        [GENESIS]
    );
    play.round(&mut company, &dids[..1]).await;
    play.round(&mut company, &dids).await;
    play.stage.mine(DEFAULT_MIN_CONF).unwrap();

    // An update that only waits for a round is not published.
    play.queued(&company, dids[1]).await;

    let ipfs = Ipfs::start().await;
    let publisher = CasPublisher::new(&ipfs.url(), None).unwrap();
    let updates = |versions: &[u64]| -> Vec<(CasKind, Option<u64>)> {
        let updates = versions
            .iter()
            .map(|version| (CasKind::Update, Some(*version)));
        std::iter::once(GENESIS)
            .chain(updates)
            .chain([ANNOUNCEMENT, ANNOUNCEMENT])
            .collect()
    };
    for (place, versions) in [(dids[0], &[2, 3][..]), (dids[1], &[2])] {
        let found = publishable(&play, &company, place, ALL).await;
        assert_eq!(kinds(&found), updates(versions));
        assert_eq!((found.proofs, found.missing), (0, 0));
        for object in found.objects {
            let published = publisher.publish(object.canonical.as_bytes()).await;
            assert_eq!(published, Ok(cid(object.canonical.as_bytes())));
        }
    }
    // Only what was selected.
    let only = Selection {
        genesis: true,
        ..Selection::default()
    };
    assert_eq!(
        kinds(&publishable(&play, &company, dids[0], only).await),
        [GENESIS]
    );

    // The chain and IPFS are enough, without any sidecar.
    let chain = ChainBackend::esplora(&play.stage.chain.url(), Duration::from_secs(10)).unwrap();
    let reader = CasReader::new([ipfs.url()], DEFAULT_TIMEOUT).unwrap();
    let lookup = Lookup::new(chain).with_cas(reader);
    for known in &company.dids {
        let resolution = lookup
            .resolve(
                &known.did,
                ResolutionOptions::default(),
                Sidecar::default(),
                Strictness::default(),
            )
            .await
            .unwrap();
        let resolved = resolution.outcome.unwrap();
        assert_eq!(resolved.metadata.version_id, known.version);
    }
    play.close().await;
}

#[tokio::test]
async fn proofs_are_counted_and_not_published() {
    let mut play = Play::open(3).await;
    let mut company = play.found(CohortBeacon::Smt, 0, &[1, 2]).await;
    let dids = play.create_dids(&mut company, &[1, 2]).await;
    play.round(&mut company, &dids[..1]).await;
    let found = publishable(&play, &company, dids[0], ALL).await;
    assert_eq!(
        kinds(&found),
        [(CasKind::GenesisDocument, None), (CasKind::Update, Some(2))]
    );
    assert_eq!((found.proofs, found.missing), (1, 0));
    play.close().await;
}
