//! `dev …`: a relay and a chain on this machine.

use std::net::SocketAddr;
use std::sync::PoisonError;
use std::time::Duration;

use bitcoin::Address;
use bitcoin::address::NetworkUnchecked;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::{DevMineView, DevPayView, DevServer};
use crate::agent::control::text::single_line;
use crate::agent::control::{ErrorCode, Failure};
use crate::chain::{RegtestServer, ServerError};
use crate::nostr::relay::DevRelay;

/// Seconds that the dev chain gets to answer; it is on this machine.
const TIMEOUT_S: u64 = 20;

/// Blocks that the dev chain mines for one request.
const BLOCKS_PER_REQUEST: u32 = 1_000;

/// Starts a Nostr relay in memory.
pub async fn dev_relay(listen: SocketAddr) -> Result<DevServer, Failure> {
    let relay = DevRelay::start(listen).await.map_err(|error| {
        Failure::new(ErrorCode::Io, format!("cannot listen on {listen}: {error}"))
            .remedy("choose another --port, or 0 for a free one")
    })?;
    Ok(DevServer {
        url: relay.url().to_string(),
        running: Box::pin(async move {
            // Serves until it is dropped.
            let _relay = relay;
            std::future::pending().await
        }),
    })
}

/// Starts a regtest chain in memory with an Esplora API, which mines at an interval in seconds or
/// on request only.
pub async fn dev_chain(
    listen: SocketAddr,
    block_every_s: Option<u64>,
) -> Result<DevServer, Failure> {
    let server = RegtestServer::start(listen).await.map_err(|error| {
        let code = match error {
            ServerError::NotLoopback(_) => ErrorCode::InvalidValue,
            _ => ErrorCode::Io,
        };
        Failure::new(code, error.to_string())
    })?;
    Ok(DevServer {
        url: server.url(),
        running: Box::pin(async move {
            let chain = server.chain();
            let Some(every) = block_every_s else {
                return std::future::pending().await;
            };
            let mut ticks = tokio::time::interval(Duration::from_secs(every.max(1)));
            // The first tick is at once; the first block comes after the interval.
            ticks.tick().await;
            loop {
                ticks.tick().await;
                chain.lock().unwrap_or_else(PoisonError::into_inner).mine(1);
            }
        }),
    })
}

/// Pays from the dev chain's miner and mines a block with it.
pub async fn dev_pay(chain: &str, address: &str, amount_sat: u64) -> Result<DevPayView, Failure> {
    #[derive(Deserialize)]
    struct Paid {
        txid: bitcoin::Txid,
    }
    let known: Result<Address<NetworkUnchecked>, _> = address.parse();
    if !known.is_ok_and(|address| address.is_valid_for_network(bitcoin::Network::Regtest)) {
        return Err(Failure::new(
            ErrorCode::InvalidValue,
            format!("{address} is not an address on regtest"),
        ));
    }
    let path = format!("/dev/fund?address={address}&amount_sat={amount_sat}");
    let paid: Paid = post(chain, &path).await?;
    let mined = dev_mine(chain, 1).await?;
    Ok(DevPayView {
        txid: paid.txid,
        height: mined.height,
    })
}

/// Mines blocks on the dev chain.
pub async fn dev_mine(chain: &str, blocks: u32) -> Result<DevMineView, Failure> {
    let mut left = blocks.max(1);
    loop {
        let now = left.min(BLOCKS_PER_REQUEST);
        let mined: DevMineView = post(chain, &format!("/dev/mine?n={now}")).await?;
        left -= now;
        if left == 0 {
            return Ok(mined);
        }
    }
}

async fn post<T: DeserializeOwned>(chain: &str, path: &str) -> Result<T, Failure> {
    let url = format!("{}{path}", chain.trim_end_matches('/'));
    let answer = bitreq::post(url)
        .with_timeout(TIMEOUT_S)
        .send_async()
        .await
        .map_err(|error| {
            Failure::new(
                ErrorCode::ChainUnreachable,
                format!("the dev chain at {chain} can not be reached: {error}"),
            )
            .remedy("start it with `btcr2-agent dev chain`, or name it with --chain")
        })?;
    let body = answer.as_str().unwrap_or_default();
    if answer.status_code != 200 {
        return Err(Failure::new(
            ErrorCode::ChainUnreachable,
            format!(
                "the dev chain refused with HTTP {}: {}",
                answer.status_code,
                single_line(body, 200)
            ),
        ));
    }
    serde_json::from_str(body).map_err(|_| {
        Failure::new(
            ErrorCode::ChainUnreachable,
            format!("{chain} is not a dev chain: its answer is not understood"),
        )
        .remedy("name the URL that `btcr2-agent dev chain` printed")
    })
}
