//! `recover` and `key backup`: between words, bundle and a home.

use std::path::{Path, PathBuf};

use rand::rngs::OsRng;

use super::home::{Identity, write_config, write_identity};
use super::{ImportedRoot, RecoverPlan};
use crate::agent::control::request::DidRef;
use crate::agent::control::views::{
    BackupView, KeyOrigin, RecoverView, RecoveredCohortView, RecoveredDidView,
};
use crate::agent::control::{ErrorCode, Failure};
use crate::agent::launch;
use crate::agent::recovery::{self, Lack};
use crate::agent::system_clock;
use crate::beacon::history::AddressHistory;
use crate::chain::ChainBackend;
use crate::cli::secret::Secret;
use crate::config::{Config, Home, write_private};
use crate::did::{Did, IdKind, initial_key_document};
use crate::keys::RootSecret;
use crate::keys::keystore::{self, DEFAULT_LOG_N};
use crate::network::Network;

/// Keys in a row without a trace on the chain after which no further one is looked for.
const GAP: u32 = 10;

/// Refuses a home that has something in it already.
pub fn check_empty(home: &Path) -> Result<(), Failure> {
    let home = launch::home(home)?;
    for path in [home.keystore_path(), home.store_path()] {
        if path.exists() {
            return Err(Failure::new(
                ErrorCode::AlreadyInitialized,
                format!("{} is there already", path.display()),
            )
            .remedy("recover into an empty home: give another --home"));
        }
    }
    Ok(())
}

/// Makes a home of words and bundle, or of the words alone. The keystore is written last: while there is none, a
/// recovery that failed can be repeated.
pub async fn recover(plan: RecoverPlan) -> Result<RecoverView, Failure> {
    check_empty(&plan.home)?;
    let (root, origin) = root_of(&plan.import)?;
    let passphrase = plan.passphrase.as_ref().map(Secret::reveal);
    let home = launch::home(&plan.home)?;
    let sealed = keystore::seal(&root, passphrase, DEFAULT_LOG_N, &mut OsRng)
        .map_err(|error| launch::keystore_failure(&home, &error))?;
    home.create().map_err(launch::home_failure)?;
    let lock = home.lock().map_err(launch::home_failure)?;
    check_empty(&plan.home)?;
    let made_config = !home.config_path().exists();
    let made = fill(&home, &root, &plan).await;
    if made.is_err() && made_config {
        // Nothing of a failed attempt stays.
        let _ = std::fs::remove_file(home.config_path());
    }
    let view = made?;
    let identity = Identity::of(root.identity().public(), origin);
    write_identity(&home, identity)?;
    write_private(&home.keystore_path(), sealed.as_bytes()).map_err(launch::home_failure)?;
    drop(lock);
    Ok(view)
}

fn root_of(import: &ImportedRoot) -> Result<(RootSecret, KeyOrigin), Failure> {
    let wrong = |error: crate::keys::root::RootError| {
        Failure::new(ErrorCode::InvalidValue, error.to_string())
    };
    Ok(match import {
        ImportedRoot::Words(words) => (
            RootSecret::from_words(words.reveal()).map_err(wrong)?,
            KeyOrigin::Words,
        ),
        ImportedRoot::Nsec(nsec) => (
            RootSecret::from_nsec(nsec.reveal().trim()).map_err(wrong)?,
            KeyOrigin::Nsec,
        ),
    })
}

async fn fill(home: &Home, root: &RootSecret, plan: &RecoverPlan) -> Result<RecoverView, Failure> {
    let config = write_config(home, plan.network)?;
    let mut view = RecoverView {
        home: home.root().display().to_string(),
        identity: root.identity().public(),
        network: config.network,
        bundle_at: None,
        lost_bytes: 0,
        inc: 0,
        dids: Vec::new(),
        cohorts: Vec::new(),
        not_scanned: None,
    };
    let now = system_clock()();
    let Some(bundle) = &plan.bundle else {
        let found = from_words(&config, root, plan, &mut view).await?;
        view.inc = recovery::restore_words(&home.store_path(), root, &found, now)
            .map_err(launch::bundle_failure)?;
        return Ok(view);
    };
    let recovered =
        recovery::restore_bundle(&home.store_path(), bundle, root, plan.accept_truncated, now)
            .map_err(launch::bundle_failure)?;
    view.bundle_at = Some(recovered.end.mark.at);
    view.lost_bytes = recovered.end.lost;
    view.inc = recovered.inc;
    view.dids = recovered
        .dids
        .into_iter()
        .map(|did| RecoveredDidView {
            did: did.did,
            version: did.version,
            lacks: did.lacks,
        })
        .collect();
    view.cohorts = recovered
        .cohorts
        .into_iter()
        .map(|cohort| RecoveredCohortView {
            cohort: cohort.cohort,
            role: cohort.role.name().to_owned(),
            resumes: cohort.resumes,
        })
        .collect();
    Ok(view)
}

/// The k1 DIDs that are named or found on the chain; of all others it is noted what is lacking.
async fn from_words(
    config: &Config,
    root: &RootSecret,
    plan: &RecoverPlan,
    view: &mut RecoverView,
) -> Result<Vec<(Network, u32)>, Failure> {
    let mut numbers = Vec::new();
    for did in &plan.dids {
        let (did, number) = named(root, did)?;
        let lacks = match (did.kind(), number) {
            (IdKind::External(_), _) => vec![Lack::GenesisDocument],
            (IdKind::Key(_), None) => vec![Lack::Key],
            (IdKind::Key(_), Some(number)) => {
                numbers.push((did.network(), number));
                Vec::new()
            }
        };
        view.dids.push(RecoveredDidView {
            did: did.to_string(),
            version: 1,
            lacks,
        });
    }
    if plan.scan {
        let backend = match &plan.chain {
            Some(url) => launch::chain_at(url),
            None => launch::chain_of(config, config.network),
        };
        let scanned = match backend {
            Ok(backend) => scan(&backend, root, config.network, &mut numbers, view).await,
            Err(failure) => Err(failure.message),
        };
        view.not_scanned = scanned.err();
    }
    numbers.sort_unstable();
    numbers.dedup();
    Ok(numbers)
}

fn named(root: &RootSecret, did: &DidRef) -> Result<(Did, Option<u32>), Failure> {
    let parsed: Did = did
        .as_str()
        .parse()
        .map_err(|error| Failure::new(ErrorCode::InvalidValue, format!("{did}: {error}")))?;
    let number = match parsed.kind() {
        IdKind::Key(_) => recovery::key_number(root, &parsed),
        IdKind::External(_) => None,
    };
    Ok((parsed, number))
}

/// Looks for k1 DIDs whose first beacons were ever paid to, key by key.
async fn scan(
    backend: &ChainBackend,
    root: &RootSecret,
    network: Network,
    numbers: &mut Vec<(Network, u32)>,
    view: &mut RecoverView,
) -> Result<(), String> {
    let failed = |error: crate::chain::ChainError| error.to_string();
    backend.prove_network(network).await.map_err(failed)?;
    let (mut number, mut unused) = (0, 0);
    while unused < GAP {
        let did = recovery::key_did(root, network, number).map_err(|error| error.to_string())?;
        let document = initial_key_document(&did).ok_or("a k1 DID has no document")?;
        let (mut used, mut signals) = (false, 0);
        for beacon in document.beacons() {
            let history = backend
                .address_history(&beacon.address)
                .await
                .map_err(failed)?;
            used |= !history.txs.is_empty();
            let script = beacon.address.script_pubkey();
            let history = AddressHistory::new(script, history.tip_height, history.txs);
            signals += history.signals().len();
        }
        unused = if used { 0 } else { unused.saturating_add(1) };
        let lacks = if signals > 0 {
            vec![Lack::Updates]
        } else {
            Vec::new()
        };
        let name = did.to_string();
        match view.dids.iter_mut().find(|known| known.did == name) {
            Some(known) => known.lacks.extend(lacks),
            None if used => {
                numbers.push((network, number));
                view.dids.push(RecoveredDidView {
                    did: name,
                    version: 1,
                    lacks,
                });
            }
            None => {}
        }
        number = number.saturating_add(1);
    }
    Ok(())
}

/// Brings the bundle of an agent that does not run up to date, and copies it.
pub fn key_backup(
    home: &Path,
    passphrase: Option<Secret>,
    out: Option<PathBuf>,
) -> Result<BackupView, Failure> {
    let opened = launch::open(home, passphrase.as_ref().map(Secret::reveal))?;
    let state = opened.write_bundle(out.as_deref())?;
    Ok(BackupView {
        file: opened.home.bundle_path().display().to_string(),
        copy: out.map(|path| path.display().to_string()),
        state,
    })
}
