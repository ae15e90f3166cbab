//! Chain facts from an Esplora HTTP server.
//!
//! The server is a stranger: transactions are rebuilt from its JSON and must hash to the txid it
//! names, a history must be closed under the spends it shows, and it counts only if the tip was the
//! same before and after it was read. What lies deep in the chain is read once per address: later readings end where
//! a page names a block that an earlier one has read.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bitcoin::block::Header;
use bitcoin::hashes::Hash as _;
use bitcoin::{Address, BlockHash, FeeRate, ScriptBuf, Transaction, Txid};
use esplora_client::{BlockInfo, EsploraTx, OutputStatus};
use serde::de::DeserializeOwned;
use url::Url;

use super::error::printable;
use super::esplora_http::{EsploraHttp, Estimates, Refusal};
use super::reading::Reading;
use super::settled::{READ_ANEW, Settled, SettledHistories};
use super::{AddressHistory, BlockFacts, BroadcastError, ChainError, ReadUpTo, Tip, TxStatus};
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

/// An Esplora HTTP server.
///
/// Requests go over one kept-alive connection per server when the server says `Connection:
/// keep-alive`; else each request connects. They are answered one after another.
#[derive(Clone)]
pub struct EsploraBackend {
    http: Arc<EsploraHttp>,
    /// The last tip seen. A block's height and median time never change, so its hash alone decides
    /// whether they must be asked for again.
    last_tip: Arc<Mutex<Option<Tip>>>,
    settled: Arc<Mutex<SettledHistories>>,
}

impl fmt::Debug for EsploraBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EsploraBackend")
            .field("host", &self.host())
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
        let base = url.as_str().trim_end_matches('/').to_owned();
        let proxy = proxy.map(|proxy| proxy.trim_end_matches('/'));
        let http = EsploraHttp::new(base, host, timeout, proxy)
            .map_err(|_| bad("cannot be used by the HTTP client"))?;
        Ok(Self {
            http: Arc::new(http),
            last_tip: Arc::default(),
            settled: Arc::default(),
        })
    }

    /// Host and port, for messages.
    #[must_use]
    pub fn host(&self) -> &str {
        self.http.host()
    }

    /// Requests sent so far.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.http.requests()
    }

    /// See [`super::ChainBackend::tip`]. One request while the tip stays, two when it moved.
    pub(super) async fn tip(&self) -> Result<Tip, ChainError> {
        for _ in 0..SETTLE_ATTEMPTS {
            let hash = self.tip_hash().await?;
            if let Some(tip) = self.remembered_tip(hash) {
                return Ok(tip);
            }
            // None: reorganised away between the two requests.
            let Some(block) = self.block_info(hash).await? else {
                continue;
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

    /// See [`super::ChainBackend::address_history_above`]. Two tip requests, and one per page of the server's size: the first
    /// time all pages, and one that shows that there is no further page; later those down to the newest block that was
    /// read before and had [`READ_ANEW`] blocks on top.
    pub(super) async fn address_history(
        &self,
        address: &Address,
        reader_has: Option<ReadUpTo>,
    ) -> Result<AddressHistory, ChainError> {
        let script = address.script_pubkey();
        let mut contradiction = None;
        for _ in 0..SETTLE_ATTEMPTS {
            let tip = self.tip().await?;
            let known = self.settled().of(&script);
            let reading = self.read_history(address, known).await?;
            let newest = reading.newest();
            let settled = reading.settled(tip.height.saturating_sub(READ_ANEW));
            if self.tip_hash().await? != tip.hash {
                // What takes longer to read than a block to come is read in parts. While a block stays in the best
                // chain, so does everything below it, and pages that begin below it tell all of it.
                if let Some(settled) = settled
                    && newest <= Some(tip.height)
                    && self.block_hash(tip.height).await? == Some(tip.hash)
                {
                    drop(reading);
                    self.settled().keep(&script, settled);
                }
                continue;
            }
            // With an unmoved tip a contradiction should be the server's, but its index may be
            // updated in steps: ask again before blaming it, and for all of it.
            match reading.finish(&script, tip, reader_has) {
                Ok(history) => {
                    // It holds on to what is about to grow.
                    drop(reading);
                    self.settled().keep(&script, settled.unwrap_or_default());
                    return Ok(history);
                }
                Err(detail) => {
                    self.settled().forget(&script);
                    contradiction = Some(detail);
                }
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
        let Some(tx) = self.tx(txid).await? else {
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
        // Not every server that speaks the rest of the API has estimates.
        let estimates: Option<Estimates> = self.get("/fee-estimates").await?;
        let Some(estimates) = estimates else {
            return Ok(None);
        };
        // The estimate for the longest target that is still soon enough, else for the shortest.
        let soon_enough = estimates
            .iter()
            .filter(|(target, _)| **target <= target_blocks)
            .max_by_key(|(target, _)| **target);
        let chosen = soon_enough.or_else(|| estimates.iter().min_by_key(|(target, _)| **target));
        Ok(chosen.and_then(|(_, sat_per_vb)| rate_of(*sat_per_vb)))
    }

    /// See [`super::ChainBackend::broadcast`].
    pub(super) async fn broadcast(&self, tx: &Transaction) -> Result<(), BroadcastError> {
        let txid = tx.compute_txid();
        let raw = bitcoin::consensus::encode::serialize_hex(tx);
        let reason = match self.http.post("/tx", raw).await {
            Ok(answered) if answered == txid.to_string() => return Ok(()),
            Ok(answered) => {
                let answered = printable(&answered);
                let detail = format!("sent transaction {txid}, it acknowledged {answered}");
                return Err(self.bad_answer(detail).into());
            }
            Err(Refusal::Status {
                status: 400 | 422,
                message,
            }) => node_reason(&message),
            // Whether the node saw it is unknown.
            Err(refusal) => return Err(self.fail(refusal).into()),
        };
        // A node refuses what it has already, in words that differ by version and by whether the
        // outputs are still unspent. Whether it has it is a question with one answer.
        match self.tx_status(txid).await? {
            TxStatus::Mempool | TxStatus::Confirmed { .. } => Ok(()),
            TxStatus::NotFound => Err(BroadcastError::Rejected {
                host: self.host().to_owned(),
                txid,
                reason,
            }),
        }
    }

    /// See [`super::ChainBackend::block_hash`].
    pub(super) async fn block_hash(&self, height: u32) -> Result<Option<BlockHash>, ChainError> {
        match self.http.text(&format!("/block-height/{height}")).await {
            Ok(hash) => self.hash_of(&hash).map(Some),
            Err(Refusal::Status { status: 404, .. }) => Ok(None),
            Err(refusal) => Err(self.fail(refusal)),
        }
    }

    /// See [`super::ChainBackend::block`].
    pub(super) async fn block(&self, hash: BlockHash) -> Result<Option<BlockFacts>, ChainError> {
        let Some(block) = self.block_info(hash).await? else {
            return Ok(None);
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
        let answer = self.http.text("/blocks/tip/hash").await;
        self.hash_of(&answer.map_err(|refusal| self.fail(refusal))?)
    }

    fn hash_of(&self, text: &str) -> Result<BlockHash, ChainError> {
        text.parse()
            .map_err(|_| self.bad_answer(format!("'{}' is no block hash", printable(text))))
    }

    /// The JSON at a path, `None` where the server has nothing.
    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>, ChainError> {
        let answer = self.http.found(path).await;
        answer.map_err(|refusal| self.fail(refusal))
    }

    async fn block_info(&self, hash: BlockHash) -> Result<Option<BlockInfo>, ChainError> {
        self.get(&format!("/block/{hash}")).await
    }

    async fn tx(&self, txid: Txid) -> Result<Option<EsploraTx>, ChainError> {
        self.get(&format!("/tx/{txid}")).await
    }

    fn remembered_tip(&self, hash: BlockHash) -> Option<Tip> {
        self.last_tip
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .filter(|tip| tip.hash == hash)
    }

    fn settled(&self) -> MutexGuard<'_, SettledHistories> {
        self.settled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn read_history(
        &self,
        address: &Address,
        known: Option<Arc<Settled>>,
    ) -> Result<Reading, ChainError> {
        let mut reading = Reading::beyond(known);
        let mut after = None;
        // Pages are followed until an empty one, or one that reaches what is known. A short page proves
        // nothing: servers differ in their page size, and some have it configured below the documented 25.
        loop {
            let path = match after {
                Some(last) => format!("/address/{address}/txs/chain/{last}"),
                None => format!("/address/{address}/txs"),
            };
            let page: Vec<EsploraTx> = match self.http.json(&path).await {
                Ok(page) => page,
                // A reorganisation can take away the transaction that the next page starts after.
                Err(Refusal::Status {
                    status: 400 | 404 | 422,
                    ..
                }) if after.is_some() => {
                    reading.gap = Some("a history page has no continuation");
                    return Ok(reading);
                }
                Err(refusal) => return Err(self.fail(refusal)),
            };
            let last_confirmed = page.iter().rev().find(|tx| tx.status.confirmed);
            after = last_confirmed.map(|tx| tx.txid);
            let added = self.add(&mut reading, page)?;
            let whole = reading.join() || after.is_none();
            if !whole && added == 0 {
                reading.gap = Some("a history page repeats an earlier one");
                return Ok(reading);
            }
            if reading.len() > MAX_HISTORY {
                return Err(ChainError::TooLong {
                    host: self.host().to_owned(),
                    address: address.to_string(),
                    limit: MAX_HISTORY,
                });
            }
            if whole {
                break;
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
        let before = reading.len();
        for listed in page {
            let claimed = listed.txid;
            reading.add(listed).map_err(|computed| {
                self.bad_answer(format!("transaction {claimed} hashes to {computed}"))
            })?;
        }
        Ok(reading.len() - before)
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
            let path = format!("/tx/{}/outspend/{}", output.txid, output.vout);
            let status: Option<OutputStatus> = self.get(&path).await?;
            let Some(spender) = status.and_then(|status| status.txid) else {
                continue;
            };
            let Some(tx) = self.tx(spender).await? else {
                continue;
            };
            if self.add(reading, vec![tx])? == 1
                && let Some(added) = reading.last()
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
            host: self.host().to_owned(),
            detail,
        }
    }

    fn unsettled(&self) -> ChainError {
        ChainError::Unsettled {
            host: self.host().to_owned(),
            attempts: SETTLE_ATTEMPTS,
        }
    }

    fn fail(&self, refusal: Refusal) -> ChainError {
        match refusal {
            Refusal::Status { status, message } => ChainError::Refused {
                host: self.host().to_owned(),
                status,
                detail: printable(&message),
            },
            Refusal::Chain(error) => error,
        }
    }
}

/// A stranger's number of sat/vB; `None` when it is none, or nothing.
fn rate_of(sat_per_vb: f64) -> Option<FeeRate> {
    // Above this nothing is an estimate any more; every policy caps far below.
    const MOST: f64 = 1_000_000.0;
    if sat_per_vb.is_nan() || sat_per_vb <= 0.0 {
        return None;
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let sat_per_kwu = (sat_per_vb.min(MOST) * 250.0).round() as u64;
    Some(FeeRate::from_sat_per_kwu(sat_per_kwu)).filter(|rate| *rate > FeeRate::ZERO)
}

/// The header that the fields of an answer make up; `None` if its time does not fit one.
fn header_of(block: &BlockInfo) -> Option<Header> {
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
        assert!(!format!("{backend:?}").contains("token"));
    }

    #[test]
    fn an_estimate_is_a_number_or_none() {
        for (said, kwu) in [
            (1.0, Some(250)),
            (0.5, Some(125)),
            (1e300, Some(250_000_000)),
        ] {
            assert_eq!(rate_of(said).map(FeeRate::to_sat_per_kwu), kwu, "{said}");
        }
        for nothing in [0.0, -1.0, 0.001, f64::NAN, f64::NEG_INFINITY] {
            assert_eq!(rate_of(nothing), None, "{nothing}");
        }
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
