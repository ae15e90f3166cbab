//! `did sidecar`, `did verify` and `key backup`: what is stored, compared with the chain as it is now.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bitcoin::Address;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, timeout_at};

use super::AgentBackend;
use crate::agent::control::views as v;
use crate::agent::control::{ErrorCode, Failure, request as r};
use crate::agent::events::What;
use crate::agent::launch::{agent_failure, bundle_failure, store_failure};
use crate::agent::runtime::Agent;
use crate::agent::sidecar::{Export, Facts, MissingKind};
use crate::beacon::history::AddressHistory;
use crate::chain::ChainBackend;
use crate::did::Did;
use crate::lookup::Lookup;
use crate::network::Network;
use crate::protocol::effect::Report;
use crate::resolver::{ResolutionOptions, Sidecar, Strictness};

/// How long `did verify --fetch` waits for aggregators unless told otherwise.
const FETCH_WAIT: Duration = Duration::from_secs(60);

/// Histories that were read, `None` for those that could not be.
type Scans = Vec<(Address, Option<Arc<AddressHistory>>)>;

impl AgentBackend {
    pub(super) async fn sidecar(&self, args: r::SidecarOf) -> Result<v::SidecarView, Failure> {
        let did = self.own_did(args.did.as_str()).await?;
        let scans = self.scan(vec![did.clone()]).await?;
        let of = did.clone();
        let export = self
            .with(move |agent| {
                let facts = agent.facts_with(scans);
                agent.export_of(&of, &facts).map_err(agent_failure)
            })
            .await?;
        Ok(v::SidecarView {
            did: did.to_string(),
            complete: export.missing.is_empty(),
            sidecar: export.sidecar.to_value(),
            beacons: export.beacons,
            missing: export.missing,
        })
    }

    pub(super) async fn verify(&self, args: r::VerifyDids) -> Result<v::VerifyView, Failure> {
        let dids = match &args.did {
            Some(did) => vec![self.own_did(did.as_str()).await?],
            None => self.with(|agent| agent.own_dids()).await?,
        };
        let scans = self.scan(dids.clone()).await?;
        let asked = match args.fetch {
            true => {
                let wait = args.wait_s.map_or(FETCH_WAIT, Duration::from_secs);
                Some(self.fetch(&dids, &scans, wait).await?)
            }
            false => None,
        };
        let of = dids.clone();
        let checked = self
            .with(move |agent| {
                let facts = agent.facts_with(scans);
                of.iter().map(|did| agent.check_did(did, &facts)).collect()
            })
            .await?;
        let checked: Vec<(v::DidCheckView, Sidecar)> = checked;
        let mut lookups: BTreeMap<Network, Lookup> = BTreeMap::new();
        let mut views = Vec::new();
        for (did, (mut view, sidecar)) in dids.iter().zip(checked) {
            let network = did.network();
            let lookup = match lookups.get(&network) {
                Some(lookup) => lookup.clone(),
                None => {
                    let lookup = Lookup::new(self.chain_of(network).await?);
                    lookups.insert(network, lookup.clone());
                    lookup
                }
            };
            view.resolution = resolution(&lookup, did, sidecar).await;
            views.push(view);
        }
        Ok(v::VerifyView { dids: views, asked })
    }

    pub(super) async fn backup(&self, args: r::Backup) -> Result<v::BackupView, Failure> {
        if args.out.as_ref().is_some_and(|out| !out.is_absolute()) {
            return Err(Failure::new(
                ErrorCode::BadRequest,
                "the place of the copy is not an absolute path",
            ));
        }
        let out = args.out.clone();
        let written = self
            .with(move |agent| {
                let keeper = agent.bundle.as_ref();
                Ok(keeper.map(|keeper| keeper.write(out)))
            })
            .await?;
        let Some(written) = written else {
            return Err(Failure::new(
                ErrorCode::NotConnected,
                "this agent keeps no bundle",
            ));
        };
        let state = written
            .await
            .map_err(|_| Failure::new(ErrorCode::Internal, "the bundle's thread has stopped"))?
            .map_err(bundle_failure)?;
        Ok(backup_view(self.home().bundle_path(), args.out, state))
    }

    async fn own_did(&self, did: &str) -> Result<Did, Failure> {
        let parsed: Did = super::dids::parse_did_text(did)?;
        let of = parsed.clone();
        self.with(move |agent| agent.did_row(&of).map(drop).map_err(agent_failure))
            .await?;
        Ok(parsed)
    }

    async fn chain_of(&self, network: Network) -> Result<ChainBackend, Failure> {
        self.with(move |agent| {
            let watch = agent.chains.get(&network);
            watch
                .map(|watch| watch.backend.clone())
                .ok_or_else(|| agent_failure(crate::agent::AgentError::NoChain(network)))
        })
        .await
    }

    /// Reads every beacon of these DIDs. What can not be read is noted, and not left out.
    async fn scan(&self, dids: Vec<Did>) -> Result<Scans, Failure> {
        let beacons = self
            .with(move |agent| agent.beacons_to_read(&dids).map_err(agent_failure))
            .await?;
        let mut proved: BTreeMap<Network, Option<ChainBackend>> = BTreeMap::new();
        let mut scans = Scans::new();
        for (network, address) in beacons {
            let backend = match proved.get(&network) {
                Some(backend) => backend.clone(),
                None => {
                    let backend = self.chain_of(network).await?;
                    // Another chain would show other people's coins.
                    let proof = backend.prove_network(network).await;
                    let backend = proof.is_ok().then_some(backend);
                    proved.insert(network, backend.clone());
                    backend
                }
            };
            let history = match &backend {
                Some(backend) => backend.address_history(&address).await.ok(),
                None => None,
            };
            let script = address.script_pubkey();
            let history = history
                .map(|read| Arc::new(AddressHistory::new(script, read.tip_height, read.txs)));
            scans.push((address, history));
        }
        Ok(scans)
    }

    /// Asks aggregators for what is missing, and waits until it is there or `wait` is over.
    async fn fetch(&self, dids: &[Did], scans: &Scans, wait: Duration) -> Result<usize, Failure> {
        let mut events = self.handle().events();
        let (of, read) = (dids.to_vec(), scans.clone());
        let asked = self
            .with(move |agent| {
                let facts = agent.facts_with(read);
                let mut asked = 0;
                for did in &of {
                    let export = agent.export_of(did, &facts).map_err(agent_failure)?;
                    asked += agent.fetch_missing(did, &export).map_err(agent_failure)?;
                }
                Ok(asked)
            })
            .await?;
        if asked == 0 {
            return Ok(0);
        }
        let deadline = Instant::now() + wait;
        loop {
            let (of, read) = (dids.to_vec(), scans.clone());
            let missing = self
                .with(move |agent| agent.lacks_proofs(&of, &agent.facts_with(read)))
                .await?;
            if !missing {
                break;
            }
            let news = async {
                loop {
                    match events.recv().await {
                        Ok(event) => {
                            if let What::Report(
                                Report::HistoryFetched { .. } | Report::Alarm { .. },
                            ) = event.what
                            {
                                return true;
                            }
                        }
                        Err(RecvError::Lagged(_)) => return true,
                        Err(RecvError::Closed) => return false,
                    }
                }
            };
            if !matches!(timeout_at(deadline, news).await, Ok(true)) {
                break;
            }
        }
        Ok(asked)
    }
}

impl Agent {
    fn own_dids(&self) -> Result<Vec<Did>, Failure> {
        let rows = self.store.view().dids().map_err(store_failure)?;
        rows.iter()
            .map(|row| super::dids::parse_did_text(&row.did))
            .collect()
    }

    fn lacks_proofs(&self, dids: &[Did], facts: &Facts) -> Result<bool, Failure> {
        for did in dids {
            let export = self.export_of(did, facts).map_err(agent_failure)?;
            let provable =
                |kind| matches!(kind, MissingKind::SmtProof | MissingKind::CasAnnouncement);
            let member = |missing: &crate::agent::MissingArtifact| {
                missing
                    .cohort
                    .is_some_and(|cohort| self.member(cohort).is_some())
            };
            let mut missing = export.missing.iter();
            if missing.any(|missing| provable(missing.kind) && member(missing)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn check_did(&self, did: &Did, facts: &Facts) -> Result<(v::DidCheckView, Sidecar), Failure> {
        let row = self.did_row(did).map_err(agent_failure)?;
        let export = self.export_of(did, facts).map_err(agent_failure)?;
        let risks = self.risks_of(did, &export, facts);
        let Export {
            sidecar,
            missing,
            beacons,
        } = export;
        let view = v::DidCheckView {
            did: did.to_string(),
            version: row.version,
            beacons,
            missing,
            risks: risks
                .into_iter()
                .map(|risk| v::RiskView {
                    code: risk.code.to_owned(),
                    text: risk.text,
                    remedy: risk.remedy,
                })
                .collect(),
            resolution: v::ResolutionCheckView {
                version: None,
                confirmations: 0,
                deactivated: false,
                error: None,
            },
        };
        Ok((view, sidecar))
    }
}

/// Resolves with what is stored and nothing else, counting every signal that is in a block: the strictest a
/// resolver can be about proofs.
async fn resolution(lookup: &Lookup, did: &Did, sidecar: Sidecar) -> v::ResolutionCheckView {
    let options = ResolutionOptions {
        min_conf: 1,
        ..ResolutionOptions::default()
    };
    let mut view = v::ResolutionCheckView {
        version: None,
        confirmations: 0,
        deactivated: false,
        error: None,
    };
    let resolved = lookup.resolve(did, options, sidecar, Strictness::default());
    match resolved.await {
        Ok(resolution) => match resolution.outcome {
            Ok(resolved) => {
                view.version = Some(resolved.metadata.version_id);
                view.confirmations = resolved.metadata.confirmations;
                view.deactivated = resolved.metadata.deactivated;
            }
            Err(failure) => view.error = Some(failure.to_string()),
        },
        Err(error) => view.error = Some(error.to_string()),
    }
    view
}

/// The answer of `key backup`.
pub(in crate::agent) fn backup_view(
    file: PathBuf,
    copy: Option<PathBuf>,
    state: crate::agent::bundle::BundleState,
) -> v::BackupView {
    v::BackupView {
        file: file.display().to_string(),
        copy: copy.map(|path| path.display().to_string()),
        state,
    }
}
