//! `did resolve` and `did conform`

use std::io::Read;
use std::path::Path;
use std::time::Duration;

use serde_json::json;

use super::Context;
use crate::agent::chains::backend_of;
use crate::agent::control::{ErrorCode, Failure};
use crate::agent::launch;
use crate::cas::{CasReader, DEFAULT_TIMEOUT};
use crate::chain::{ChainBackend, ChainError};
use crate::cli::args::{ChainArg, ConformArgs, ResolveArgs};
use crate::cli::error::CliError;
use crate::cli::render::printable_json;
use crate::did::{Did, ErrorCode as ResolutionCode};
use crate::lookup::recording::MAX_RECORDING_BYTES;
use crate::lookup::{ChainSource, Lookup, LookupError, Recording, conform};
use crate::resolver::{
    self, MAX_SIDECAR_BYTES, Resolution, ResolutionOptions, Sidecar, Strictness,
};

/// Time for one request to a chain server. Some take long for an address with many transactions.
const CHAIN_TIMEOUT: Duration = Duration::from_secs(30);

impl Context {
    pub(super) async fn resolve(&self, args: ResolveArgs) -> Result<(), CliError> {
        let (resolution, recording) = match self.look_up(&args).await? {
            Ok(found) => found,
            // The DID or the options are wrong: that is a result as well, but nothing was looked up.
            Err(failure) => (refused(&args.did, failure), None),
        };
        if let (Some(path), Some(recording)) = (&args.record, recording) {
            std::fs::write(path, recording.to_json()).map_err(|error| {
                let message = format!("{} can not be written: {error}", path.display());
                Failure::new(ErrorCode::Io, message)
            })?;
        }
        self.print(&resolution, &args)
    }

    pub(super) async fn conform(&self, args: &ConformArgs) -> Result<(), CliError> {
        let strictness = strictness(args.allow_missing_invocation_target);
        let report = conform::run(&args.dir, strictness).await.map_err(|error| {
            let code = match error {
                conform::ConformError::Io { .. } => ErrorCode::Io,
                _ => ErrorCode::NotFound,
            };
            Failure::new(code, error.to_string())
        })?;
        if report.failed == 0 {
            return self.out.view(&report);
        }
        if !self.out.is_json() {
            self.out.view(&report)?;
        }
        let (failed, all) = (report.failed, report.checks.len());
        let message = format!("{failed} of {all} checks failed");
        let mut failure = Failure::new(ErrorCode::NotConformant, message);
        if report.lacks_invocation_targets() && !args.allow_missing_invocation_target {
            failure = failure.remedy(
                "sets from before October 2026 have no invocationTarget: run them with --allow-missing-invocation-target",
            );
        }
        Err(CliError::Unsuccessful {
            failure,
            result: json!(report),
        })
    }

    /// Looks a DID up. The inner error is one of the DID or the options.
    async fn look_up(
        &self,
        args: &ResolveArgs,
    ) -> Result<Result<(Resolution, Option<Recording>), resolver::Failure>, CliError> {
        let did: Did = match args.did.parse() {
            Ok(did) => did,
            Err(invalid) => return Ok(Err(resolver::Failure::from(invalid))),
        };
        let options = ResolutionOptions::from_text(
            args.version_id.as_deref(),
            args.version_time.as_deref(),
            args.min_conf.as_deref(),
        );
        let options = match options {
            Ok(options) => options,
            Err(failure) => return Ok(Err(failure)),
        };
        let sidecar = match &args.sidecar {
            None => Ok(Sidecar::default()),
            Some(path) => Sidecar::parse(read(path, "sidecar", MAX_SIDECAR_BYTES)?),
        };
        let sidecar = match sidecar {
            Ok(sidecar) => sidecar,
            Err(failure) => return Ok(Err(failure)),
        };
        let mut lookup =
            Lookup::new(self.chain(args, &did)?).with_deadline(Duration::from_secs(args.timeout));
        let gateways = self.gateways(args)?;
        if !gateways.is_empty() {
            let reader = CasReader::new(&gateways, DEFAULT_TIMEOUT);
            lookup = lookup.with_cas(
                reader.map_err(|error| Failure::new(ErrorCode::Usage, error.to_string()))?,
            );
        }
        let strictness = strictness(args.allow_missing_invocation_target);
        let found = lookup.resolve_recorded(&did, options, sidecar, strictness);
        let (resolution, recording) = found.await.map_err(|error| unreachable(&error, args))?;
        Ok(Ok((resolution, Some(recording))))
    }

    /// The gateways that are named, else the configured ones.
    fn gateways(&self, args: &ResolveArgs) -> Result<Vec<String>, Failure> {
        if args.network_free || !args.ipfs.is_empty() {
            return Ok(args.ipfs.clone());
        }
        let config = launch::load_config(&launch::home(&self.home)?)?;
        let configured = config.cas.gateways.iter();
        Ok(configured.map(ToString::to_string).collect())
    }

    /// Where chain data comes from. Opens no connection.
    fn chain(&self, args: &ResolveArgs, did: &Did) -> Result<ChainSource, Failure> {
        let network = did.network();
        let url = match &args.chain {
            Some(ChainArg::File(path)) => {
                let bytes = read(path, "recording", MAX_RECORDING_BYTES)?;
                let wrong = |why: &str| {
                    let message = format!("{}: {why}", path.display());
                    Failure::new(ErrorCode::InvalidValue, message)
                };
                let recording = Recording::parse(&bytes, network);
                let recording = recording.map_err(|error| wrong(&error.to_string()))?;
                if !recording.is_about(did) {
                    return Err(wrong("its signals are those of another DID"));
                }
                return Ok(recording.into());
            }
            Some(ChainArg::Url(_)) if args.network_free => {
                return Err(Failure::new(
                    ErrorCode::Usage,
                    "--network-free contacts no server: give --chain a file made with --record",
                ));
            }
            Some(ChainArg::Url(url)) => url.clone(),
            // The settings of the home, where there is one: a server that was chosen is not to be replaced by
            // one that was not.
            None => {
                let config = launch::load_config(&launch::home(&self.home)?)?;
                return Ok(backend_of(config.chain.of(network), network, CHAIN_TIMEOUT)?.into());
            }
        };
        let backend = ChainBackend::esplora(&url, CHAIN_TIMEOUT)
            .map_err(|error| Failure::new(ErrorCode::Usage, error.to_string()))?;
        Ok(backend.into())
    }

    fn print(&self, resolution: &Resolution, args: &ResolveArgs) -> Result<(), CliError> {
        let mut result = resolution.to_value();
        if self.out.is_json() {
            if let (true, Some(members)) = (args.explain, result.as_object_mut()) {
                members.insert("walk".to_owned(), json!(resolution.walk));
            }
        } else {
            if args.explain {
                crate::cli::render::explain(&resolution.walk);
            }
            self.out.text(&printable_json(&result))?;
        }
        match &resolution.outcome {
            Err(failure) => Err(CliError::Unsuccessful {
                failure: not_resolved(failure, args),
                result,
            }),
            Ok(_) if self.out.is_json() => {
                self.out.json_line(&json!({"ok": true, "result": result}))
            }
            Ok(_) => Ok(()),
        }
    }
}

fn strictness(allow_missing_invocation_target: bool) -> Strictness {
    if allow_missing_invocation_target {
        Strictness::before_october_2026()
    } else {
        Strictness::default()
    }
}

/// The result of a lookup that ended before it began.
fn refused(did: &str, failure: resolver::Failure) -> Resolution {
    Resolution {
        did: did.to_owned(),
        outcome: Err(failure),
        walk: resolver::Walk::default(),
    }
}

fn not_resolved(failure: &resolver::Failure, args: &ResolveArgs) -> Failure {
    let found = Failure::new(ErrorCode::NotResolved, failure.to_string());
    match failure.code {
        ResolutionCode::NotFound | ResolutionCode::MissingUpdateData if args.sidecar.is_none() => {
            found.remedy(
                "give the DID's sidecar data with --sidecar FILE; `did sidecar <did>` exports those of your own DIDs",
            )
        }
        ResolutionCode::MissingUpdateData if args.ipfs.is_empty() => found.remedy(
            "the sidecar data lack it: ask the controller, or look for it with --ipfs URL",
        ),
        _ => found,
    }
}

fn unreachable(error: &LookupError, args: &ResolveArgs) -> Failure {
    let code = match error {
        LookupError::Chain(ChainError::WrongNetwork { .. }) | LookupError::OtherNetwork { .. } => {
            ErrorCode::WrongNetwork
        }
        LookupError::Chain(_) | LookupError::Unsettled { .. } => ErrorCode::ChainUnreachable,
        LookupError::Cas { .. } => ErrorCode::CasFailed,
        LookupError::Deadline { .. } => ErrorCode::Timeout,
        LookupError::NotRecorded { .. } => ErrorCode::NotFound,
        LookupError::TooManyObjects { .. } => ErrorCode::TooLarge,
        _ => ErrorCode::Internal,
    };
    let failure = Failure::new(code, error.to_string());
    match error {
        LookupError::Chain(_) if args.chain.is_none() => {
            failure.remedy("--chain names another server, or a file made with --record")
        }
        _ => failure,
    }
}

/// Reads a file, or stdin for `-`, of at most `limit` bytes.
fn read(path: &Path, what: &str, limit: usize) -> Result<Vec<u8>, Failure> {
    let is_stdin = path == Path::new("-");
    let name = match is_stdin {
        true => "stdin".to_owned(),
        false => path.display().to_string(),
    };
    let bound = limit as u64 + 1;
    let mut bytes = Vec::new();
    let done = if is_stdin {
        std::io::stdin().lock().take(bound).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(bound).read_to_end(&mut bytes))
    };
    done.map_err(|error| {
        let message = format!("the {what} {name} can not be read: {error}");
        Failure::new(ErrorCode::Io, message)
    })?;
    if bytes.len() > limit {
        let message = format!("the {what} {name} has more than {limit} bytes");
        return Err(Failure::new(ErrorCode::TooLarge, message));
    }
    Ok(bytes)
}
