//! Chain facts from an Esplora HTTP server.
//!
//! The server is a stranger: transactions are rebuilt from its JSON and must hash to the txid it
//! names, a history must be closed under the spends it shows, and it counts only if the tip was the
//! same before and after it was read.

use std::error::Error as _;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bitcoin::block::Header;
use bitcoin::hashes::Hash as _;
use bitcoin::{Address, BlockHash, FeeRate, ScriptBuf, Transaction, Txid};
use esplora_client::{AsyncClient, Builder, EsploraTx};
use url::Url;

use super::error::printable;
use super::reading::Reading;
use super::{AddressHistory, BlockFacts, BroadcastError, ChainError, Tip, TxStatus};
use crate::time::UnixTime;

/// Attempts to read one history, or one tip, while blocks arrive.
const SETTLE_ATTEMPTS: u32 = 5;

/// The longest history that is read. A beacon adds one transaction a round and a stranger can add
/// payments; at two blocks a minute this is a week of one payment per block. It bounds memory.
const MAX_HISTORY: usize = 20_000;

/// Servers list only so many unconfirmed transactions of an address (50 by default, and it can be
/// configured). From here on the list may be cut, and spends are looked up one by one.
const MEMPOOL_LIST_MAY_BE_CUT: usize = 25;

/// Outputs whose spends are looked up one by one when the list may be cut, oldest first.
const MAX_SPEND_LOOKUPS: usize = 200;

/// Retries after HTTP 429, 500 and 503, with 0.25 s and 0.5 s between. The caller retries at its own,
/// slower pace.
const RETRIES: usize = 2;

/// An Esplora HTTP server.
///
/// Requests go over one kept-alive connection per server when the server says `Connection:
/// keep-alive`; else each request connects. They are answered one after another.
#[derive(Clone)]
pub struct EsploraBackend {
    client: AsyncClient,
    host: String,
    /// The last tip seen. A block's height and median time never change, so its hash alone decides
    /// whether they must be asked for again.
    last_tip: Arc<Mutex<Option<Tip>>>,
}

impl fmt::Debug for EsploraBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EsploraBackend")
            .field("host", &self.host)
            .finish_non_exhaustive()
    }
}

impl EsploraBackend {
    /// A backend for the server at `base_url` (`https://mempool.space/signet/api`); nothing is sent
    /// yet. `timeout` bounds one request, connecting included, rounded up to whole seconds.
    ///
    /// # Errors
    /// [`ChainError::Url`]: not an http or https URL, or one with a user name, query or fragment.
    pub fn new(base_url: &str, timeout: Duration) -> Result<Self, ChainError> {
        Self::through(base_url, timeout, None)
    }

    /// As [`Self::new`], by way of an HTTP proxy (`http://host:port`), which is asked to `CONNECT`.
    ///
    /// # Errors
    /// [`ChainError::Url`], as [`Self::new`].
    pub fn through(
        base_url: &str,
        timeout: Duration,
        proxy: Option<&str>,
    ) -> Result<Self, ChainError> {
        let bad = |problem| ChainError::Url { problem };
        let url = Url::parse(base_url.trim()).map_err(|_| bad("is not a URL"))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(bad("does not start with https:// or http://"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(bad(
                "carries a user name or password, which is not supported",
            ));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(bad("has a query or fragment"));
        }
        let name = url.host_str().ok_or_else(|| bad("has no host"))?;
        let host = match url.port() {
            Some(port) => format!("{name}:{port}"),
            None => name.to_owned(),
        };
        let mut builder = Builder::new(url.as_str().trim_end_matches('/'));
        if let Some(proxy) = proxy {
            builder = builder.proxy(proxy.trim_end_matches('/'));
        }
        let client = builder
            .timeout(timeout.max(Duration::from_secs(1)))
            .max_retries(RETRIES)
            .header(
                "user-agent",
                concat!("btcr2-agent/", env!("CARGO_PKG_VERSION")),
            )
            .build_async()
            .map_err(|_| bad("cannot be used by the HTTP client"))?;
        Ok(Self {
            client,
            host,
            last_tip: Arc::default(),
        })
    }

    /// Host and port, for messages.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// See [`super::ChainBackend::tip`]. One request while the tip stays, two when it moved.
    pub(super) async fn tip(&self) -> Result<Tip, ChainError> {
        for _ in 0..SETTLE_ATTEMPTS {
            let hash = self.tip_hash().await?;
            if let Some(tip) = self.remembered_tip(hash) {
                return Ok(tip);
            }
            let block = match self.client.get_block_info(&hash).await {
                Ok(block) => block,
                // Reorganised away between the two requests.
                Err(esplora_client::Error::HttpResponse { status: 404, .. }) => continue,
                Err(error) => return Err(self.fail(error)),
            };
            if block.id != hash {
                return Err(self.bad_answer(format!("asked for block {hash}, got {}", block.id)));
            }
            let tip = Tip {
                height: block.height,
                hash,
                median_time: UnixTime(block.mediantime),
            };
            *self.last_tip.lock().unwrap_or_else(PoisonError::into_inner) = Some(tip);
            return Ok(tip);
        }
        Err(self.unsettled())
    }

    /// See [`super::ChainBackend::address_history`]. Two tip requests, one per page of the server's
    /// size, and one that shows that there is no further page.
    pub(super) async fn address_history(
        &self,
        address: &Address,
    ) -> Result<AddressHistory, ChainError> {
        let mut contradiction = None;
        for _ in 0..SETTLE_ATTEMPTS {
            let tip = self.tip().await?;
            let reading = self.read_history(address).await?;
            if self.tip_hash().await? != tip.hash {
                continue;
            }
            // With an unmoved tip a contradiction should be the server's, but its index may be
            // updated in steps: ask again before blaming it.
            match reading.finish(&address.script_pubkey(), tip) {
                Ok(history) => return Ok(history),
                Err(detail) => contradiction = Some(detail),
            }
        }
        Err(match contradiction {
            Some(detail) => self.bad_answer(detail),
            None => self.unsettled(),
        })
    }

    /// See [`super::ChainBackend::tx_status`].
    pub(super) async fn tx_status(&self, txid: Txid) -> Result<TxStatus, ChainError> {
        // Not /tx/:txid/status: there some servers call an unknown transaction merely unconfirmed.
        let Some(tx) = self
            .client
            .get_tx_info(&txid)
            .await
            .map_err(|error| self.fail(error))?
        else {
            return Ok(TxStatus::NotFound);
        };
        if tx.txid != txid {
            return Err(self.bad_answer(format!("asked for transaction {txid}, got {}", tx.txid)));
        }
        match (
            tx.status.confirmed,
            tx.status.block_height,
            tx.status.block_hash,
        ) {
            (false, _, _) => Ok(TxStatus::Mempool),
            (true, Some(height), Some(hash)) => Ok(TxStatus::Confirmed { height, hash }),
            (true, _, _) => {
                Err(self.bad_answer(format!("transaction {txid} is confirmed, but in no block")))
            }
        }
    }

    /// See [`super::ChainBackend::fee_rate`].
    pub(super) async fn fee_rate(&self, target_blocks: u16) -> Result<Option<FeeRate>, ChainError> {
        let estimates = match self.client.get_fee_estimates().await {
            Ok(estimates) => estimates,
            // Not every server that speaks the rest of the API has estimates.
            Err(esplora_client::Error::HttpResponse { status: 404, .. }) => return Ok(None),
            Err(error) => return Err(self.fail(error)),
        };
        // The estimate for the longest target that is still soon enough, else for the shortest.
        let soon_enough = estimates
            .iter()
            .filter(|(target, _)| **target <= target_blocks)
            .max_by_key(|(target, _)| **target);
        let chosen = soon_enough.or_else(|| estimates.iter().min_by_key(|(target, _)| **target));
        Ok(chosen
            .map(|(_, rate)| *rate)
            .filter(|rate| *rate > FeeRate::ZERO))
    }

    /// See [`super::ChainBackend::broadcast`].
    pub(super) async fn broadcast(&self, tx: &Transaction) -> Result<(), BroadcastError> {
        let txid = tx.compute_txid();
        let refusal = match self.client.broadcast(tx).await {
            Ok(answered) if answered == txid => return Ok(()),
            Ok(answered) => {
                let detail = format!("sent transaction {txid}, it acknowledged {answered}");
                return Err(self.bad_answer(detail).into());
            }
            Err(error) => error,
        };
        let reason = match &refusal {
            esplora_client::Error::HttpResponse {
                status: 400 | 422,
                message,
            } => node_reason(message),
            // Whether the node saw it is unknown.
            _ => return Err(self.fail(refusal).into()),
        };
        // A node refuses what it has already, in words that differ by version and by whether the
        // outputs are still unspent. Whether it has it is a question with one answer.
        match self.tx_status(txid).await? {
            TxStatus::Mempool | TxStatus::Confirmed { .. } => Ok(()),
            TxStatus::NotFound => Err(BroadcastError::Rejected {
                host: self.host.clone(),
                txid,
                reason,
            }),
        }
    }

    /// See [`super::ChainBackend::block_hash`].
    pub(super) async fn block_hash(&self, height: u32) -> Result<Option<BlockHash>, ChainError> {
        match self.client.get_block_hash(height).await {
            Ok(hash) => Ok(Some(hash)),
            Err(esplora_client::Error::HttpResponse { status: 404, .. }) => Ok(None),
            Err(error) => Err(self.fail(error)),
        }
    }

    /// See [`super::ChainBackend::block`].
    pub(super) async fn block(&self, hash: BlockHash) -> Result<Option<BlockFacts>, ChainError> {
        let block = match self.client.get_block_info(&hash).await {
            Ok(block) => block,
            Err(esplora_client::Error::HttpResponse { status: 404, .. }) => return Ok(None),
            Err(error) => return Err(self.fail(error)),
        };
        let computed = header_of(&block).map(|header| header.block_hash());
        if block.id != hash || computed != Some(hash) {
            return Err(self.bad_answer(format!("block {hash} has a header of another block")));
        }
        // A block's own time is above the median of the eleven before it, so at or above the median
        // of the eleven that end with it.
        if block.mediantime > block.timestamp {
            return Err(self.bad_answer(format!("block {hash} has a median time after its own")));
        }
        Ok(Some(BlockFacts {
            height: block.height,
            hash,
            time: UnixTime(block.timestamp),
            median_time: UnixTime(block.mediantime),
        }))
    }

    async fn tip_hash(&self) -> Result<BlockHash, ChainError> {
        self.client
            .get_tip_hash()
            .await
            .map_err(|error| self.fail(error))
    }

    fn remembered_tip(&self, hash: BlockHash) -> Option<Tip> {
        self.last_tip
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .filter(|tip| tip.hash == hash)
    }

    async fn read_history(&self, address: &Address) -> Result<Reading, ChainError> {
        let mut reading = Reading::default();
        let mut after = None;
        // Pages are followed until an empty one. A short page proves nothing: servers differ in
        // their page size, and some have it configured below the documented 25.
        loop {
            let page = match self.client.get_address_txs(address, after).await {
                Ok(page) => page,
                // A reorganisation can take away the transaction that the next page starts after.
                Err(esplora_client::Error::HttpResponse {
                    status: 400 | 404 | 422,
                    ..
                }) if after.is_some() => {
                    reading.gap = Some("a history page has no continuation");
                    return Ok(reading);
                }
                Err(error) => return Err(self.fail(error)),
            };
            let last_confirmed = page.iter().rev().find(|tx| tx.status.confirmed);
            after = last_confirmed.map(|tx| tx.txid);
            let added = self.add(&mut reading, page)?;
            if after.is_none() {
                break;
            }
            if added == 0 {
                reading.gap = Some("a history page repeats an earlier one");
                return Ok(reading);
            }
            if reading.txs.len() > MAX_HISTORY {
                return Err(ChainError::TooLong {
                    host: self.host.clone(),
                    address: address.to_string(),
                    limit: MAX_HISTORY,
                });
            }
        }
        if reading.unconfirmed() >= MEMPOOL_LIST_MAY_BE_CUT {
            self.add_hidden_spends(&mut reading, &address.script_pubkey())
                .await?;
        }
        Ok(reading)
    }

    /// Adds a page and says how many of its transactions were new.
    fn add(&self, reading: &mut Reading, page: Vec<EsploraTx>) -> Result<usize, ChainError> {
        let before = reading.txs.len();
        for listed in page {
            let claimed = listed.txid;
            reading.add(listed).map_err(|computed| {
                self.bad_answer(format!("transaction {claimed} hashes to {computed}"))
            })?;
        }
        Ok(reading.txs.len() - before)
    }

    /// Finds unconfirmed spends that a flood of unconfirmed payments pushed off the server's list, so
    /// that nobody can hide that the beacon's tip is being spent.
    async fn add_hidden_spends(
        &self,
        reading: &mut Reading,
        script: &ScriptBuf,
    ) -> Result<(), ChainError> {
        let mut queue = reading.unspent_outputs(script);
        for _ in 0..MAX_SPEND_LOOKUPS {
            let Some(output) = queue.pop_front() else {
                break;
            };
            let status = self
                .client
                .get_output_status(&output.txid, u64::from(output.vout))
                .await
                .map_err(|error| self.fail(error))?;
            let Some(spender) = status.and_then(|status| status.txid) else {
                continue;
            };
            let Some(tx) = self
                .client
                .get_tx_info(&spender)
                .await
                .map_err(|error| self.fail(error))?
            else {
                continue;
            };
            if self.add(reading, vec![tx])? == 1
                && let Some(added) = reading.txs.last()
            {
                // The change of a spend may be spent by the next one.
                for change in added.outputs_to(script) {
                    queue.push_front(change);
                }
            }
        }
        Ok(())
    }

    fn bad_answer(&self, detail: String) -> ChainError {
        ChainError::BadAnswer {
            host: self.host.clone(),
            detail,
        }
    }

    fn unsettled(&self) -> ChainError {
        ChainError::Unsettled {
            host: self.host.clone(),
            attempts: SETTLE_ATTEMPTS,
        }
    }

    fn fail(&self, error: esplora_client::Error) -> ChainError {
        let host = self.host.clone();
        match error {
            esplora_client::Error::HttpResponse { status, message } => ChainError::Refused {
                host,
                status,
                detail: printable(&message),
            },
            esplora_client::Error::BitReq(error) => {
                let detail = printable(&error.to_string());
                let source = error.source();
                let broken_transport = source.is_some_and(|source| {
                    source.is::<io::Error>()
                        || !(source.is::<serde_json::Error>() || source.is::<std::str::Utf8Error>())
                });
                if broken_transport {
                    ChainError::Unreachable { host, detail }
                } else {
                    ChainError::BadAnswer { host, detail }
                }
            }
            other => ChainError::BadAnswer {
                host,
                detail: printable(&other.to_string()),
            },
        }
    }
}

/// The header that the fields of an answer make up; `None` if its time does not fit one.
fn header_of(block: &esplora_client::BlockInfo) -> Option<Header> {
    Some(Header {
        version: block.version,
        prev_blockhash: block.previousblockhash.unwrap_or_else(BlockHash::all_zeros),
        merkle_root: block.merkle_root,
        time: u32::try_from(block.timestamp).ok()?,
        bits: block.bits,
        nonce: block.nonce,
    })
}

/// The node's own words inside what an Esplora server wraps around them:
/// `sendrawtransaction RPC error: {"code":-26,"message":"dust"}`.
fn node_reason(message: &str) -> String {
    #[derive(serde::Deserialize)]
    struct RpcError {
        message: String,
    }
    let inner = message
        .find('{')
        .and_then(|at| message.get(at..))
        .and_then(|json| serde_json::from_str::<RpcError>(json).ok());
    printable(inner.as_ref().map_or(message, |error| &error.message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::error::MAX_DETAIL;

    #[test]
    fn unusable_urls_are_refused_with_the_reason() {
        for (url, problem) in [
            ("mempool.space/api", "is not a URL"),
            (
                "ftp://mempool.space/api",
                "does not start with https:// or http://",
            ),
            (
                "https://alice:secret@mempool.space",
                "carries a user name or password, which is not supported",
            ),
            ("https://mempool.space/api?key=1", "has a query or fragment"),
        ] {
            let error = EsploraBackend::new(url, Duration::from_secs(5)).unwrap_err();
            assert_eq!(error, ChainError::Url { problem }, "{url}");
            assert!(!error.to_string().contains("secret"));
        }
    }

    #[test]
    fn the_host_is_named_without_the_path() {
        let backend =
            EsploraBackend::new("https://example.org:8443/token/api/", Duration::ZERO).unwrap();
        assert_eq!(backend.host(), "example.org:8443");
        assert_eq!(backend.client.url(), "https://example.org:8443/token/api");
        assert!(!format!("{backend:?}").contains("token"));
    }

    #[test]
    fn a_nodes_reason_is_found_in_both_wrappings() {
        let wrapped = r#"sendrawtransaction RPC error: {"code":-26,"message":"dust"}"#;
        assert_eq!(node_reason(wrapped), "dust");
        assert_eq!(node_reason("bad\nthing\u{1b}[0m"), "bad thing [0m");
        assert_eq!(node_reason(" "), "no reason given");
        assert_eq!(node_reason(&"x".repeat(5000)).len(), MAX_DETAIL);
    }
}
