//! `doctor`: looks at everything an agent needs, changes nothing, and says what to do.

use std::collections::BTreeSet;
use std::path::Path;

use crate::agent::bundle::BundleError;
use crate::agent::control::request::{NoArgs, ProbeRelays, VerifyDids};
use crate::agent::control::views::{
    Area, CheckState, CheckView, DoctorView, ProbeView, StatusView, VerifyView,
};
use crate::agent::control::{Backend as _, ControlClient, ErrorCode, Failure, PeerText};
use crate::agent::launch;
use crate::agent::{copies, former, recovery};
use crate::cli::output::now;
use crate::cli::render::duration;
use crate::config::{Config, Home, HomeError};
use crate::network::Network;
use crate::protocol::terms::Terms;
use crate::store::Store;
use crate::time::UnixTime;

/// Seconds by which this machine's clock may be behind what is known to have been.
const CLOCK_TOLERANCE: u64 = 600;

/// Seconds by which the median time of the last blocks is behind the time, at most, unless the clock is wrong or the
/// chain stands still. It is an hour behind as a rule.
const CHAIN_STALE: u64 = 12 * 3_600;

/// Seconds a relay may take.
const PROBE_SECONDS: u64 = 8;

/// Seconds after which a bundle is old while no agent writes it.
const BUNDLE_OLD: u64 = 30 * 86_400;

/// What to do without the keystore that belongs to a store.
const KEYSTORE_LOST: &str = "copy keystore.json out of a backup, or make the home again elsewhere: `btcr2-agent \
                             restore`, or `btcr2-agent recover` with the words";

/// How many checks failed.
#[must_use]
pub fn failed(view: &DoctorView) -> usize {
    let checks = view.checks.iter();
    checks
        .filter(|check| check.state == CheckState::Failed)
        .count()
}

/// Looks at a home, and at what it needs from elsewhere unless `offline`. `daemon` is the one that runs in it, if one
/// answers.
pub async fn doctor(
    home: &Path,
    daemon: Result<Option<ControlClient>, Failure>,
    offline: bool,
) -> Result<DoctorView, Failure> {
    let home = launch::home(home)?;
    let mut checks = Checks(Vec::new());
    let daemon = checks.daemon(&home, daemon).await;
    let config = checks.settings(&home);
    checks.keys(&home);
    let kept = checks.store(&home, config.as_ref());
    checks.bundle(&home, daemon.is_some());
    checks.versions(daemon.as_ref().map(|(_, status)| status));
    let mut clock_seen = false;
    if let Some(last) = kept.as_ref().and_then(|kept| kept.last) {
        clock_seen = true;
        checks.clock_against(last, "the last entry of this agent's log");
    }
    if offline {
        for area in [Area::Relays, Area::Chain, Area::Artifacts] {
            checks.add(area, CheckState::Skipped, "not asked: --offline", None);
        }
    } else if let Some(config) = &config {
        let client = daemon.as_ref().map(|(client, _)| client);
        let mut networks = kept
            .as_ref()
            .map_or_else(BTreeSet::new, |kept| kept.networks.clone());
        networks.insert(config.network);
        checks.relays(&home, client, &networks).await;
        clock_seen |= checks.chains(config, networks).await;
        checks.artifacts(client, kept.as_ref()).await;
    }
    if !clock_seen {
        let text = "nothing to compare it with";
        checks.add(Area::Clock, CheckState::Skipped, text, None);
    }
    let mut view = DoctorView {
        home: home.root().display().to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        healthy: false,
        checks: checks.0,
    };
    view.healthy = failed(&view) == 0;
    Ok(view)
}

/// What the store says of other things.
struct Kept {
    dids: usize,
    networks: BTreeSet<Network>,
    /// The date of the last entry of the log.
    last: Option<UnixTime>,
}

struct Checks(Vec<CheckView>);

impl Checks {
    fn add(&mut self, area: Area, state: CheckState, text: &str, remedy: Option<&str>) {
        self.0.push(CheckView {
            area,
            state,
            text: PeerText::from(text.to_owned()),
            remedy: remedy.map(str::to_owned),
        });
    }

    fn ok(&mut self, area: Area, text: &str) {
        self.add(area, CheckState::Ok, text, None);
    }

    fn failure(&mut self, area: Area, state: CheckState, failure: &Failure) {
        self.add(area, state, &failure.message, failure.remedy.as_deref());
    }

    /// The home, and the daemon in it.
    async fn daemon(
        &mut self,
        home: &Home,
        daemon: Result<Option<ControlClient>, Failure>,
    ) -> Option<(ControlClient, StatusView)> {
        if let Err(error) = home.check() {
            self.failure(Area::Home, CheckState::Failed, &launch::home_failure(error));
            return None;
        }
        let root = home.root().display();
        match writable(home) {
            Ok(()) => self.ok(Area::Home, &format!("{root} is private and can be written")),
            Err(error) => self.add(
                Area::Home,
                CheckState::Failed,
                &format!("nothing can be written in {root}: {error}"),
                Some("make it writable for this user, or free space on its disk; the agent goes on where it stopped"),
            ),
        }
        let client = match daemon {
            Ok(Some(client)) => client,
            Ok(None) => {
                match home.lock() {
                    Ok(lock) => {
                        drop(lock);
                        self.add(
                            Area::Home,
                            CheckState::Skipped,
                            "no agent runs in it",
                            Some("start it with `btcr2-agent run`"),
                        );
                    }
                    Err(HomeError::Locked { holder, .. }) => self.add(
                        Area::Home,
                        CheckState::Failed,
                        &format!("it is held by {holder}, which takes no commands"),
                        Some("look at its log; stop it, and start it with `btcr2-agent run`"),
                    ),
                    // Said already: nothing can be written.
                    Err(_) => {}
                }
                return None;
            }
            Err(failure) => {
                self.failure(Area::Home, CheckState::Failed, &failure);
                return None;
            }
        };
        match client.status(NoArgs {}).await {
            Ok(status) => {
                let text = format!("the agent runs as process {}", status.pid);
                self.ok(Area::Home, &text);
                for alarm in &status.alarms {
                    self.add(
                        Area::Home,
                        CheckState::Warning,
                        alarm.text.as_str(),
                        alarm.remedy.as_deref(),
                    );
                }
                Some((client, status))
            }
            Err(failure) => {
                self.failure(Area::Home, CheckState::Failed, &failure);
                None
            }
        }
    }

    fn settings(&mut self, home: &Home) -> Option<Config> {
        let config = match launch::load_config(home) {
            Ok(config) => config,
            Err(failure) => {
                self.failure(Area::Settings, CheckState::Failed, &failure);
                return None;
            }
        };
        if let Err(failure) = launch::relay_settings(home, &config, &[]) {
            self.failure(Area::Settings, CheckState::Failed, &failure);
            return None;
        }
        let text = format!("understood; network {}", config.network);
        self.ok(Area::Settings, &text);
        Some(config)
    }

    fn keys(&mut self, home: &Home) {
        let identity = super::key_show(home.root());
        match launch::read_keystore(home) {
            Ok(Some(_)) => {}
            Ok(None) => {
                let mut failure = launch::no_keystore(home);
                // Another key would be another agent.
                if home.store_path().exists() {
                    failure.remedy = Some(KEYSTORE_LOST.to_owned());
                }
                return self.failure(Area::Keys, CheckState::Failed, &failure);
            }
            Err(failure) => return self.failure(Area::Keys, CheckState::Failed, &failure),
        }
        match identity {
            Ok(key) if key.encrypted => self.ok(
                Area::Keys,
                &format!("{} is encrypted and private", key.file),
            ),
            Ok(key) => self.add(
                Area::Keys,
                CheckState::Warning,
                &format!(
                    "{} has no passphrase: whoever reads it is this agent",
                    key.file
                ),
                None,
            ),
            // Made again by the next start.
            Err(failure) if failure.code == ErrorCode::NotFound => {
                self.failure(Area::Keys, CheckState::Warning, &failure);
            }
            Err(mut failure) => {
                failure
                    .remedy
                    .get_or_insert_with(|| KEYSTORE_LOST.to_owned());
                self.failure(Area::Keys, CheckState::Failed, &failure);
            }
        }
    }

    fn store(&mut self, home: &Home, config: Option<&Config>) -> Option<Kept> {
        let path = home.store_path();
        if !path.exists() {
            self.add(
                Area::Store,
                CheckState::Failed,
                &format!("{} is not there", path.display()),
                Some("restore a backup, or make the home again: `btcr2-agent restore`, `btcr2-agent recover`"),
            );
            return None;
        }
        match self.read_store(&path, config) {
            Ok(kept) => Some(kept),
            Err(failure) => {
                self.failure(Area::Store, CheckState::Failed, &failure);
                None
            }
        }
    }

    fn read_store(&mut self, path: &Path, config: Option<&Config>) -> Result<Kept, Failure> {
        let store = Store::open_read_only(path).map_err(launch::store_failure)?;
        store.check().map_err(launch::store_failure)?;
        let view = store.view();
        let failed = launch::store_failure;
        let inc = view.incarnation().map_err(failed)?;
        let bytes = std::fs::metadata(path).map_or(0, |found| found.len());
        let mib = bytes >> 20;
        self.ok(
            Area::Store,
            &format!("intact: every page and reference was read; {mib} MiB, incarnation {inc}"),
        );
        if let Some(limit) = config.map(|config| u64::from(config.limits.store_mib))
            && mib >= limit / 10 * 9
        {
            self.add(
                Area::Store,
                CheckState::Warning,
                &format!(
                    "it has {mib} of the {limit} MiB it may have: at the limit the agent stops"
                ),
                Some("raise limits.store_mib in config.toml"),
            );
        }
        if let Some(sighting) = copies::seen(&view).map_err(failed)? {
            self.add(
                Area::Store,
                CheckState::Failed,
                &sighting.to_string(),
                Some(
                    "stop one of the two for good; to go on with this home: `btcr2-agent takeover`",
                ),
            );
        }
        if let Some(at) = recovery::copied_at(&view).map_err(failed)? {
            let age = duration(now().since(at));
            self.add(
                Area::Store,
                CheckState::Warning,
                &format!("it is a copy, {age} old, that was not used yet"),
                Some("stop the agent it was copied from before you start this one"),
            );
        }
        if former::unread_since(&view).map_err(failed)?.is_some() {
            self.add(
                Area::Store,
                CheckState::Warning,
                "it was restored, and no relay has sent yet all that its former copy wrote: no DID is updated before",
                Some("start the agent, and see that a relay is connected: `btcr2-agent relay list`"),
            );
        }
        let held_back = former::held_back(&view).map_err(failed)?;
        if held_back > 0 {
            self.add(
                Area::Store,
                CheckState::Warning,
                &format!(
                    "updates that its former copy announced and it did not have: {held_back}. Their DIDs are not \
                     updated before a block has decided about each"
                ),
                Some("`btcr2-agent did update` says for which round of which cohort a DID waits; a newer bundle may have \
                      the update"),
            );
        }
        let networks = view.live_cohorts().map_err(failed)?;
        let networks = networks
            .iter()
            .filter_map(|row| Some(Terms::parse(&row.terms).ok()?.0.network));
        Ok(Kept {
            dids: view.dids().map_err(failed)?.len(),
            networks: networks.collect(),
            last: view.last_entry_at().map_err(failed)?,
        })
    }

    /// The bundle's file; what is in it shows with the words only.
    fn bundle(&mut self, home: &Home, running: bool) {
        let path = home.bundle_path();
        let modified = std::fs::metadata(&path).and_then(|found| found.modified());
        let age = modified.map(|at| at.elapsed().map_or(0, |age| age.as_secs()));
        match age {
            Ok(age) if running || age < BUNDLE_OLD => self.ok(
                Area::Backup,
                &format!("{} was written {} ago", path.display(), duration(age)),
            ),
            Ok(age) => self.add(
                Area::Backup,
                CheckState::Warning,
                &format!("{} was written {} ago", path.display(), duration(age)),
                Some("`btcr2-agent key backup` brings it up to date"),
            ),
            Err(source) if source.kind() == std::io::ErrorKind::NotFound => self.add(
                Area::Backup,
                CheckState::Warning,
                "there is no bundle: the words alone do not restore signed updates",
                Some("`btcr2-agent key backup` writes it, and so does a running agent"),
            ),
            Err(source) => {
                let failure = launch::bundle_failure(BundleError::Io {
                    action: "read",
                    path,
                    source,
                });
                self.failure(Area::Backup, CheckState::Failed, &failure);
            }
        }
    }

    fn versions(&mut self, daemon: Option<&StatusView>) {
        let own = env!("CARGO_PKG_VERSION");
        match daemon {
            Some(status) if status.version != own => self.add(
                Area::Versions,
                CheckState::Warning,
                &format!(
                    "the agent that runs is version {}, this is {own}",
                    status.version
                ),
                Some("restart it: `btcr2-agent run`"),
            ),
            _ => self.ok(
                Area::Versions,
                &format!(
                    "btcr2-agent {own}, schema {}, SQLite {}",
                    Store::schema_known(),
                    Store::sqlite_version()
                ),
            ),
        }
    }

    /// The clock can not be before what is known to have been.
    fn clock_against(&mut self, known: UnixTime, what: &str) {
        let behind = known.since(now());
        if behind > CLOCK_TOLERANCE {
            let behind = duration(behind);
            self.add(
                Area::Clock,
                CheckState::Failed,
                &format!("this machine's clock is {behind} before {what}"),
                Some("set the clock, and let it be kept (NTP); the agent goes on by itself"),
            );
        } else {
            self.ok(Area::Clock, &format!("not before {what}"));
        }
    }

    /// Tries the relays of these networks, and no others.
    async fn relays(
        &mut self,
        home: &Home,
        daemon: Option<&ControlClient>,
        networks: &BTreeSet<Network>,
    ) {
        let listed = match daemon {
            Some(daemon) => daemon.relay_list(NoArgs {}).await,
            None => super::relay_list(home.root()),
        };
        let listed = match listed {
            Ok(view) => view.relays,
            Err(failure) => return self.failure(Area::Relays, CheckState::Failed, &failure),
        };
        let of_networks = listed.into_iter().filter(|relay| {
            let mut of = relay.networks.iter();
            relay.networks.is_empty() || of.any(|network| networks.contains(network))
        });
        let urls: Vec<String> = of_networks.map(|relay| relay.url).collect();
        if urls.is_empty() {
            let names: Vec<&str> = networks.iter().map(|network| network.name()).collect();
            return self.add(
                Area::Relays,
                CheckState::Failed,
                &format!("no relay is configured for {}", names.join(", ")),
                Some("add one with `btcr2-agent relay add <url>`"),
            );
        }
        let probe = ProbeRelays {
            urls,
            timeout_s: Some(PROBE_SECONDS),
        };
        let probed = match daemon {
            Some(daemon) => daemon.relay_probe(probe).await,
            None => super::relay_probe(home.root(), probe).await,
        };
        let relays = match probed {
            Ok(view) => view.relays,
            Err(failure) => return self.failure(Area::Relays, CheckState::Failed, &failure),
        };
        let usable = relays.iter().filter(|probe| is_usable(probe)).count();
        for probe in relays.iter().filter(|probe| !is_usable(probe)) {
            let notes: Vec<&str> = probe.notes.iter().map(PeerText::as_str).collect();
            let why = match probe.connect_ms {
                None => "not reached",
                Some(_) if probe.wrote == Some(false) => "refuses our events",
                Some(_) => "does not give back what it took",
            };
            let text = format!("{}: {why}: {}", probe.url, notes.join("; "));
            self.add(
                Area::Relays,
                CheckState::Warning,
                text.trim_end_matches([':', ' ']),
                Some("`btcr2-agent relay probe` shows more; replace it if it stays so"),
            );
        }
        let text = format!(
            "{usable} of {} take our events and give them back",
            relays.len()
        );
        match usable {
            0 => self.add(
                Area::Relays,
                CheckState::Failed,
                &text,
                Some("check the connection, or add another: `btcr2-agent relay add <url>`"),
            ),
            1 => self.add(
                Area::Relays,
                CheckState::Warning,
                &text,
                Some("add another, so that one can fail: `btcr2-agent relay add <url>`"),
            ),
            _ => self.ok(Area::Relays, &text),
        }
    }

    /// Asks every backend in use. Whether a clock could be compared.
    async fn chains(&mut self, config: &Config, networks: BTreeSet<Network>) -> bool {
        let mut compared = false;
        for network in networks {
            let backend = match launch::chain_of(config, network) {
                Ok(backend) => backend,
                Err(failure) => {
                    self.failure(Area::Chain, CheckState::Failed, &failure);
                    continue;
                }
            };
            let host = backend.host().to_owned();
            let asked = match backend.prove_network(network).await {
                Ok(()) => backend.tip().await,
                Err(error) => Err(error),
            };
            match asked {
                Ok(tip) => {
                    let text = format!("{host} is on {network}, at height {}", tip.height);
                    self.ok(Area::Chain, &text);
                    // Blocks of a local chain are made when somebody wants them.
                    if network == Network::Regtest {
                        continue;
                    }
                    compared = true;
                    let what = format!("the blocks of {network}");
                    self.clock_against(tip.median_time, &what);
                    let age = now().since(tip.median_time);
                    if age > CHAIN_STALE {
                        let age = duration(age);
                        self.add(
                            Area::Chain,
                            CheckState::Warning,
                            &format!("the last blocks {host} has are {age} old"),
                            Some("see whether it keeps up with the chain, and whether this machine's clock is right"),
                        );
                    }
                }
                Err(error) => self.add(
                    Area::Chain,
                    CheckState::Failed,
                    &format!("{host}: {error}"),
                    Some(&format!(
                        "check [chain.{network}] in config.toml, and whether the server runs"
                    )),
                ),
            }
        }
        compared
    }

    async fn artifacts(&mut self, daemon: Option<&ControlClient>, kept: Option<&Kept>) {
        match (daemon, kept) {
            (_, Some(Kept { dids: 0, .. })) => self.ok(Area::Artifacts, "there are no DIDs"),
            (Some(daemon), _) => match daemon.did_verify(VerifyDids::default()).await {
                Ok(verified) => self.verified(&verified),
                Err(failure) => self.failure(Area::Artifacts, CheckState::Warning, &failure),
            },
            (None, _) => self.add(
                Area::Artifacts,
                CheckState::Skipped,
                "DIDs are compared with the chain by a running agent",
                Some("start it with `btcr2-agent run`, and look again"),
            ),
        }
    }

    fn verified(&mut self, verified: &VerifyView) {
        let unhealthy = verified.dids.iter().filter(|did| !did.is_healthy());
        for did in unhealthy {
            let missing = did.missing.len();
            let text = match (missing, did.risks.first(), &did.resolution.error) {
                (0, Some(risk), _) => format!("{}: {}", did.did, risk.text),
                (0, None, Some(error)) => format!("{} does not resolve: {error}", did.did),
                (0, None, None) => format!("{}: the chain shows another version", did.did),
                _ => format!(
                    "{}: {missing} of the things a resolver needs are missing",
                    did.did
                ),
            };
            self.add(
                Area::Artifacts,
                CheckState::Failed,
                &text,
                Some("`btcr2-agent did verify --fetch` says more, and asks aggregators for what is missing"),
            );
        }
        if verified.is_healthy() {
            let count = verified.dids.len();
            self.ok(
                Area::Artifacts,
                &format!("of {count} DIDs everything is here that a resolver needs"),
            );
        }
    }
}

const fn is_usable(probe: &ProbeView) -> bool {
    matches!(probe.wrote, Some(true)) && !matches!(probe.read_back, Some(false))
}

/// Whether a file can be made in the home.
fn writable(home: &Home) -> std::io::Result<()> {
    let path = home
        .root()
        .join(format!(".doctor-{}.new", std::process::id()));
    // More than a directory's own room: a full disk takes empty files.
    let written = std::fs::write(&path, [0; 4_096]);
    let removed = std::fs::remove_file(&path);
    written.and(removed)
}
