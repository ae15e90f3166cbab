//! `did publish`

use std::io::{self, Read as _, Write as _};
use std::path::Path;

use serde_json::json;
use zeroize::Zeroizing;

use super::Context;
use crate::agent::control::request::DidArtifacts;
use crate::agent::control::views::DidArtifactsView;
use crate::agent::control::{Backend as _, ErrorCode, Failure};
use crate::agent::launch;
use crate::cas::{CasError, CasPublisher, RpcAuth};
use crate::cli::args::PublishArgs;
use crate::cli::ask::confirm;
use crate::cli::backend::daemon;
use crate::cli::error::CliError;
use crate::cli::output::now;
use crate::cli::render::{Page, PublishPlan, PublishedArtifact, PublishedView, Render as _};
use crate::config::check_private;
use crate::did::json::cid;

/// Bytes of a file with credentials that are read.
const MAX_AUTH_FILE: u64 = 8192;

impl Context {
    pub(super) async fn publish(&self, args: &PublishArgs) -> Result<(), CliError> {
        let publisher = self.publisher(args)?;
        let found = self.artifacts(args).await?;
        if found.artifacts.is_empty() {
            return Err(nothing(args, &found).into());
        }
        let plan = PublishPlan {
            did: found.did.clone(),
            node: publisher.host().to_owned(),
            artifacts: found.artifacts.iter().map(planned).collect(),
            proofs: found.proofs,
            missing: found.missing,
        };
        if !(args.yes && self.out.is_json()) {
            let mut page = Page::new(now());
            plan.render(&mut page);
            let _ = io::stderr().lock().write_all(page.as_str().as_bytes());
        }
        if !args.yes {
            let question = format!(
                "Publish {} to {}, for ever?",
                count(plan.artifacts.len()),
                plan.node
            );
            confirm(&question, "--yes", "nothing was published")?;
        }
        let mut published = Vec::new();
        let mut failure = None;
        for (artifact, planned) in found.artifacts.iter().zip(&plan.artifacts) {
            match publisher.publish(artifact.canonical.as_bytes()).await {
                Ok(_) => published.push(planned.clone()),
                Err(error) => {
                    failure = Some(refused(&error, published.len(), &plan));
                    break;
                }
            }
        }
        let view = PublishedView {
            did: plan.did,
            node: plan.node,
            artifacts: published,
            proofs: plan.proofs,
            missing: plan.missing,
        };
        let Some(failure) = failure else {
            return self.out.view(&view);
        };
        if !self.out.is_json() && !view.artifacts.is_empty() {
            self.out.view(&view)?;
        }
        Err(CliError::Unsuccessful {
            failure,
            result: json!(view),
        })
    }

    /// The node: the one that is named, else the configured one. Credentials of the settings go to the node
    /// of the settings only.
    fn publisher(&self, args: &PublishArgs) -> Result<CasPublisher, Failure> {
        let mut auth_file = args.rpc_auth_file.clone();
        let rpc = match &args.rpc {
            Some(rpc) => rpc.clone(),
            None => {
                let config = launch::load_config(&launch::home(&self.home)?)?;
                let rpc = config.cas.rpc.ok_or_else(|| {
                    Failure::new(ErrorCode::BadConfig, "no IPFS node is configured")
                        .remedy("name its RPC with --rpc http://127.0.0.1:5001, or set cas.rpc in config.toml")
                })?;
                auth_file = auth_file.or(config.cas.rpc_auth_file);
                rpc.to_string()
            }
        };
        let auth = auth_file.as_deref().map(read_auth).transpose()?;
        CasPublisher::new(&rpc, auth)
            .map_err(|error| Failure::new(ErrorCode::InvalidValue, error.to_string()))
    }

    /// All of them, page after page.
    async fn artifacts(&self, args: &PublishArgs) -> Result<DidArtifactsView, Failure> {
        let daemon = daemon(&self.home).await?;
        let mut request = DidArtifacts {
            did: args.did.clone(),
            updates: args.updates,
            announcements: args.announcements,
            genesis: args.genesis,
            from: 0,
        };
        let mut all = daemon.did_artifacts(request.clone()).await?;
        while let Some(next) = all.next {
            request.from = next;
            let mut more = daemon.did_artifacts(request.clone()).await?;
            // Numbers mean something else now; and a page without anything would never end.
            if more.count != all.count || more.artifacts.is_empty() {
                return Err(Failure::new(
                    ErrorCode::Busy,
                    "the DID's artifacts changed while they were read",
                )
                .remedy("run the command again; nothing was published"));
            }
            all.artifacts.append(&mut more.artifacts);
            all.next = more.next;
        }
        Ok(all)
    }
}

fn planned(artifact: &crate::agent::control::views::DidArtifactView) -> PublishedArtifact {
    PublishedArtifact {
        kind: artifact.kind,
        version: artifact.version,
        cid: cid(artifact.canonical.as_bytes()),
        bytes: artifact.canonical.len(),
    }
}

fn count(artifacts: usize) -> String {
    match artifacts {
        1 => "1 artifact".to_owned(),
        n => format!("{n} artifacts"),
    }
}

fn nothing(args: &PublishArgs, found: &DidArtifactsView) -> Failure {
    let message = if args.genesis && !args.updates && !args.announcements {
        "this DID has no genesis document to publish"
    } else {
        "there is nothing of these kinds to publish"
    };
    let failure = Failure::new(ErrorCode::NotFound, message);
    if found.missing > 0 {
        return failure.remedy("`did verify` says what is missing and how to get it");
    }
    failure.remedy(
        "an update can be published once its signal is signed; a k1 DID has no genesis document",
    )
}

fn refused(error: &CasError, published: usize, plan: &PublishPlan) -> Failure {
    let all = plan.artifacts.len();
    let code = match error {
        CasError::BlockTooLarge { .. } => ErrorCode::TooLarge,
        _ => ErrorCode::CasFailed,
    };
    Failure::new(
        code,
        format!("{published} of {all} published, then: {error}"),
    )
    .remedy("run the command again when that is mended: what is published already does no harm")
}

/// Reads credentials from a file nobody else can read.
fn read_auth(path: &Path) -> Result<RpcAuth, Failure> {
    let io = |error: io::Error| {
        let message = format!(
            "the credentials {} can not be read: {error}",
            path.display()
        );
        Failure::new(ErrorCode::Io, message)
    };
    let file = std::fs::File::open(path).map_err(io)?;
    check_private(path).map_err(launch::home_failure)?;
    let mut text = Zeroizing::new(String::new());
    file.take(MAX_AUTH_FILE)
        .read_to_string(&mut text)
        .map_err(io)?;
    RpcAuth::parse(&text).map_err(|error| {
        let message = format!("{}: {error}", path.display());
        Failure::new(ErrorCode::InvalidValue, message)
    })
}
