//! A regtest chain inside the process: real blocks, real transactions, Bitcoin Core's own script
//! verification, and no socket, file, thread or source of randomness.
//!
//! The same calls with the same clock give the same chain, txid by txid and block by block. There are
//! no peers: a block is mined when the owner says so, a reorganisation happens when the owner undoes
//! blocks.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use bitcoin::block::{Header, Version as BlockVersion};
use bitcoin::hashes::Hash as _;
use bitcoin::{
    Amount, Block, BlockHash, OutPoint, Script, ScriptBuf, Transaction, TxMerkleNode, TxOut, Txid,
    WitnessMerkleNode,
};

use super::acceptance::{self, Accepted, Reject};
use super::faucet::{FundError, coinbase};
use super::mempool::{Entry, Mempool};
use super::{AddressHistory, AddressTx, Tip, TxStatus};
use crate::time::UnixTime;

/// Blocks after which a coinbase output can be spent.
pub(super) const COINBASE_MATURITY: u32 = 100;

/// Blocks mined at birth, so that the faucet has something to spend from the start.
const FIRST_BLOCKS: u32 = COINBASE_MATURITY + 10;

/// Seconds between the blocks mined at birth, which end at the clock's first time.
const FIRST_BLOCKS_SPACING: u64 = 600;

/// Weight a block may have, in weight units, less room for header and coinbase.
const MAX_BLOCK_WEIGHT: u64 = 4_000_000 - 8_000;

/// Blocks over which the median time is taken (BIP-113).
const MEDIAN_SPAN: usize = 11;

/// Where the chain takes the time from, once per block.
pub type Clock = Box<dyn FnMut() -> UnixTime + Send>;

/// A clock that shows `start`, then `step` seconds more each time it is read.
#[must_use]
pub fn stepping_clock(start: UnixTime, step: u64) -> Clock {
    let mut next = start;
    Box::new(move || {
        let now = next;
        next = now.plus(step);
        now
    })
}

/// The computer's clock.
#[must_use]
pub fn system_clock() -> Clock {
    Box::new(|| {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        UnixTime(since.map_or(0, |elapsed| elapsed.as_secs()))
    })
}

/// An output that can be spent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Coin {
    pub(super) output: TxOut,
    /// Height of the block that has it; for unconfirmed ones the height of the next block.
    pub(super) height: u32,
    pub(super) coinbase: bool,
}

/// A block of the best chain.
#[derive(Debug, Clone)]
pub(super) struct ChainBlock {
    pub(super) hash: BlockHash,
    pub(super) block: Block,
    /// Median time of this block and the ten before it.
    pub(super) median_time: u32,
    /// Per transaction, the coins it spends in the order of its inputs; none for the coinbase.
    pub(super) spent: Vec<Vec<Coin>>,
}

/// A transaction with all that is known about it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Located<'a> {
    pub(super) tx: &'a Transaction,
    pub(super) spent: &'a [Coin],
    /// The block that has it.
    pub(super) block: Option<(u32, &'a ChainBlock)>,
}

/// Height of a block and index of a transaction in it.
type Place = (u32, usize);

/// A regtest chain with a mempool, a miner and a faucet.
pub struct RegtestChain {
    clock: Clock,
    blocks: Vec<ChainBlock>,
    coins: HashMap<OutPoint, Coin>,
    places: HashMap<Txid, Place>,
    /// Transactions that pay or spend a script, in chain order.
    touching: HashMap<ScriptBuf, Vec<Place>>,
    mempool: Mempool,
    /// Goes into each coinbase, so that a block mined anew after a reorganisation is another block.
    blocks_ever_mined: u64,
    mine_on_entry: bool,
    on_entry: Option<Box<dyn Fn() + Send>>,
}

impl fmt::Debug for RegtestChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegtestChain")
            .field("tip", &self.tip())
            .field("mempool", &self.mempool.len())
            .finish_non_exhaustive()
    }
}

impl RegtestChain {
    /// A chain of the regtest genesis block and 110 empty blocks, ten minutes apart and the last one
    /// at the clock's first time, so that the faucet has mature coins.
    #[must_use]
    pub fn new(mut clock: Clock) -> Self {
        let now = clock();
        let genesis = bitcoin::constants::genesis_block(bitcoin::Network::Regtest);
        let mut chain = Self {
            clock,
            blocks: Vec::new(),
            coins: HashMap::new(),
            places: HashMap::new(),
            touching: HashMap::new(),
            mempool: Mempool::default(),
            blocks_ever_mined: 0,
            mine_on_entry: false,
            on_entry: None,
        };
        chain.connect(genesis, vec![Vec::new()]);
        for left in (0..FIRST_BLOCKS).rev() {
            let time = now.minus(u64::from(left) * FIRST_BLOCKS_SPACING);
            chain.mine_block(time, Vec::new());
        }
        chain
    }

    /// Mines a block as soon as a transaction enters the mempool, before [`Self::submit`] returns.
    pub fn set_mine_on_entry(&mut self, on: bool) {
        self.mine_on_entry = on;
    }

    /// Calls `listener` whenever a transaction enters the mempool. It must not lock the chain.
    pub fn set_entry_listener(&mut self, listener: Box<dyn Fn() + Send>) {
        self.on_entry = Some(listener);
    }

    /// The last block.
    #[must_use]
    pub fn tip(&self) -> Tip {
        let last = self.last_block();
        Tip {
            height: self.height(),
            hash: last.hash,
            median_time: UnixTime(u64::from(last.median_time)),
        }
    }

    /// Height of the last block.
    #[must_use]
    pub fn height(&self) -> u32 {
        // The genesis block is never removed, and 2^32 blocks do not fit.
        u32::try_from(self.blocks.len().saturating_sub(1)).unwrap_or(u32::MAX)
    }

    /// The block at `height`.
    #[must_use]
    pub fn block(&self, height: u32) -> Option<&Block> {
        self.chain_block(height).map(|entry| &entry.block)
    }

    /// A transaction of the chain or the mempool.
    #[must_use]
    pub fn transaction(&self, txid: &Txid) -> Option<&Transaction> {
        self.locate(txid).map(|located| located.tx)
    }

    /// Where a transaction is.
    #[must_use]
    pub fn tx_status(&self, txid: &Txid) -> TxStatus {
        match self.locate(txid) {
            None => TxStatus::NotFound,
            Some(Located { block: None, .. }) => TxStatus::Mempool,
            Some(Located {
                block: Some((height, block)),
                ..
            }) => TxStatus::Confirmed {
                height,
                hash: block.hash,
            },
        }
    }

    /// Unconfirmed transactions in the order of their arrival.
    #[must_use]
    pub fn mempool_txids(&self) -> Vec<Txid> {
        self.mempool.iter().map(|(txid, _)| *txid).collect()
    }

    /// Every transaction that pays `script` or spends from it: confirmed ones in chain order, then
    /// the mempool's in the order of their arrival.
    #[must_use]
    pub fn history(&self, script: &Script) -> AddressHistory {
        let located = self.located_history(script);
        let blocks = located
            .iter()
            .filter_map(|located| located.block.map(|(height, block)| (height, block.hash)))
            .collect();
        let txs = located
            .into_iter()
            .map(|located| AddressTx {
                tx: located.tx.clone().into(),
                height: located.block.map(|(height, _)| height),
            })
            .collect();
        AddressHistory {
            tip_height: self.height(),
            tip_hash: self.tip().hash,
            above: None,
            txs,
            blocks,
        }
    }

    /// Offers a transaction to the mempool; it replaces what it conflicts with if BIP-125 allows.
    ///
    /// # Errors
    /// [`Reject`], whose text is Bitcoin Core's.
    pub fn submit(&mut self, tx: &Transaction) -> Result<Txid, Reject> {
        let txid = self.enter(tx)?;
        if let Some(listener) = &self.on_entry {
            listener();
        }
        if self.mine_on_entry {
            self.mine(1);
        }
        Ok(txid)
    }

    /// Takes a transaction and its descendants out of the mempool, as when a node runs out of room or
    /// restarts. Says whether it was there.
    pub fn evict(&mut self, txid: &Txid) -> bool {
        let known = self.mempool.get(txid).is_some();
        let gone = self.mempool.with_descendants(HashSet::from([*txid]));
        self.mempool.remove(&gone);
        known
    }

    /// Mines `count` blocks, the first with as much of the mempool as fits, and gives their hashes.
    pub fn mine(&mut self, count: u32) -> Vec<BlockHash> {
        (0..count)
            .map(|_| {
                let time = (self.clock)();
                let txs = self.choose_transactions();
                self.mine_block(time, txs)
            })
            .collect()
    }

    /// Mines `count` blocks without any transaction: the mempool stays as it is.
    pub fn mine_empty(&mut self, count: u32) -> Vec<BlockHash> {
        (0..count)
            .map(|_| {
                let time = (self.clock)();
                self.mine_block(time, Vec::new())
            })
            .collect()
    }

    /// Undoes the last `count` blocks, never the genesis block. Their transactions return to the
    /// mempool, except those that are not valid any more. Gives the number of blocks undone.
    pub fn invalidate_tip(&mut self, count: u32) -> u32 {
        let count = count.min(self.height());
        let mut returned: Vec<Vec<Transaction>> = Vec::new();
        for _ in 0..count {
            returned.push(self.disconnect());
        }
        let waiting = self.mempool.take();
        for tx in returned.into_iter().rev().flatten().chain(waiting) {
            // Refused: it spends a coinbase that is gone, or its lock time is ahead again.
            let _ = self.enter(&tx);
        }
        count
    }

    /// Sends `amount` to `script` from the faucet, as output 0 of a transaction in the mempool.
    ///
    /// # Errors
    /// [`FundError::Empty`] when the faucet's coins do not suffice.
    pub fn fund(&mut self, script: &Script, amount: Amount) -> Result<OutPoint, FundError> {
        let tx = self.faucet_payment(script, amount)?;
        let txid = self.submit(&tx)?;
        Ok(OutPoint::new(txid, 0))
    }

    /// An unspent output: confirmed or not, and not spent by the mempool either.
    #[must_use]
    pub fn unspent(&self, output: &OutPoint) -> Option<TxOut> {
        if self.mempool.spender(output).is_some() {
            return None;
        }
        self.confirmed_coin(output)
            .map(|coin| coin.output.clone())
            .or_else(|| self.unconfirmed_coin(output).map(|coin| coin.output))
    }

    pub(super) fn mempool(&self) -> &Mempool {
        &self.mempool
    }

    pub(super) fn next_height(&self) -> u32 {
        self.height().saturating_add(1)
    }

    pub(super) fn median_time_u32(&self) -> u32 {
        self.last_block().median_time
    }

    pub(super) fn median_time_at(&self, height: u32) -> u32 {
        self.chain_block(height)
            .map_or(u32::MAX, |entry| entry.median_time)
    }

    pub(super) fn confirmed_coin(&self, output: &OutPoint) -> Option<&Coin> {
        self.coins.get(output)
    }

    /// In no particular order.
    pub(super) fn confirmed_coins(&self) -> impl Iterator<Item = (&OutPoint, &Coin)> {
        self.coins.iter()
    }

    pub(super) fn unconfirmed_coin(&self, output: &OutPoint) -> Option<Coin> {
        let entry = self.mempool.get(&output.txid)?;
        let output = entry.tx.output.get(usize::try_from(output.vout).ok()?)?;
        Some(Coin {
            output: output.clone(),
            height: self.next_height(),
            coinbase: false,
        })
    }

    pub(super) fn chain_block(&self, height: u32) -> Option<&ChainBlock> {
        self.blocks.get(usize::try_from(height).ok()?)
    }

    pub(super) fn find_block(&self, hash: &BlockHash) -> Option<(u32, &ChainBlock)> {
        // From the end: nearly always the tip is asked for.
        let (height, entry) = self
            .blocks
            .iter()
            .enumerate()
            .rfind(|(_, entry)| entry.hash == *hash)?;
        Some((u32::try_from(height).ok()?, entry))
    }

    pub(super) fn locate(&self, txid: &Txid) -> Option<Located<'_>> {
        if let Some(place) = self.places.get(txid) {
            return self.at(*place);
        }
        self.mempool.get(txid).map(|entry| Located {
            tx: &entry.tx,
            spent: &entry.spent,
            block: None,
        })
    }

    /// In chain order, then in order of arrival.
    pub(super) fn located_history(&self, script: &Script) -> Vec<Located<'_>> {
        let confirmed = self.confirmed_of(script, None);
        confirmed.chain(self.unconfirmed_of(script)).collect()
    }

    /// What blocks hold of a script, in chain order; before one of these transactions, if that is given.
    pub(super) fn confirmed_of(
        &self,
        script: &Script,
        before: Option<&Txid>,
    ) -> impl DoubleEndedIterator<Item = Located<'_>> {
        let places = self.touching.get(script).map_or(&[][..], Vec::as_slice);
        let end = before.map_or(Some(places.len()), |txid| {
            places.binary_search(self.places.get(txid)?).ok()
        });
        let places = end.and_then(|end| places.get(..end)).unwrap_or_default();
        places.iter().filter_map(|place| self.at(*place))
    }

    /// What the mempool holds of a script, in order of arrival.
    pub(super) fn unconfirmed_of(&self, script: &Script) -> Vec<Located<'_>> {
        let touches = |entry: &Entry| {
            scripts_touched(&entry.tx, &entry.spent).any(|touched| touched == script)
        };
        self.mempool
            .iter()
            .filter(|(_, entry)| touches(entry))
            .map(|(_, entry)| Located {
                tx: &entry.tx,
                spent: &entry.spent,
                block: None,
            })
            .collect()
    }

    /// Scripts that occur in the chain or the mempool.
    pub(super) fn known_scripts(&self) -> impl Iterator<Item = &Script> {
        let unconfirmed = self
            .mempool
            .iter()
            .flat_map(|(_, entry)| scripts_touched(&entry.tx, &entry.spent));
        self.touching
            .keys()
            .map(|script| script.as_script())
            .chain(unconfirmed)
    }

    /// The transaction that spends an output, and the index of its input.
    pub(super) fn spender(&self, output: &OutPoint) -> Option<(Located<'_>, usize)> {
        let located = match self.mempool.spender(output) {
            Some(txid) => self.locate(&txid)?,
            None => {
                let owner = self.locate(&output.txid)?;
                let script = &owner
                    .tx
                    .output
                    .get(usize::try_from(output.vout).ok()?)?
                    .script_pubkey;
                self.touching
                    .get(script)?
                    .iter()
                    .filter_map(|place| self.at(*place))
                    .find(|located| spends(located.tx, output).is_some())?
            }
        };
        spends(located.tx, output).map(|input| (located, input))
    }

    fn at(&self, (height, index): Place) -> Option<Located<'_>> {
        let block = self.chain_block(height)?;
        Some(Located {
            tx: block.block.txdata.get(index)?,
            spent: block.spent.get(index)?,
            block: Some((height, block)),
        })
    }

    #[allow(clippy::expect_used)]
    fn last_block(&self) -> &ChainBlock {
        self.blocks
            .last()
            .expect("the genesis block is never undone")
    }

    fn enter(&mut self, tx: &Transaction) -> Result<Txid, Reject> {
        let Accepted {
            fee,
            spent,
            evicted,
        } = acceptance::accept(self, tx)?;
        self.mempool.remove(&evicted);
        let txid = tx.compute_txid();
        let tx = tx.clone();
        self.mempool.insert(txid, Entry { tx, fee, spent });
        Ok(txid)
    }

    fn choose_transactions(&self) -> Vec<(Transaction, Vec<Coin>)> {
        let mut weight = 0u64;
        // Arrival order puts parents first; stopping at the first that does not fit keeps it so.
        self.mempool
            .iter()
            .map_while(|(_, entry)| {
                weight = weight.saturating_add(entry.tx.weight().to_wu());
                (weight <= MAX_BLOCK_WEIGHT).then(|| (entry.tx.clone(), entry.spent.clone()))
            })
            .collect()
    }

    fn mine_block(&mut self, time: UnixTime, txs: Vec<(Transaction, Vec<Coin>)>) -> BlockHash {
        let height = self.next_height();
        let fees: Amount = txs
            .iter()
            .map(|(tx, spent)| value_of_coins(spent) - value_of_outputs(tx))
            .sum();
        // The witness root takes the coinbase's hash as zero, so any transaction can stand in for it.
        let mut txdata = vec![coinbase(height, 0, fees, &WitnessMerkleNode::all_zeros())];
        let mut spent = vec![Vec::new()];
        for (tx, coins) in txs {
            txdata.push(tx);
            spent.push(coins);
        }
        let earliest = self.median_time_u32().saturating_add(1);
        let mut block = Block {
            header: Header {
                version: BlockVersion::NO_SOFT_FORK_SIGNALLING,
                prev_blockhash: self.last_block().hash,
                merkle_root: TxMerkleNode::all_zeros(),
                time: u32::try_from(time.0).unwrap_or(u32::MAX).max(earliest),
                bits: self.last_block().block.header.bits,
                nonce: 0,
            },
            txdata,
        };
        self.blocks_ever_mined += 1;
        let witness_root = block
            .witness_root()
            .unwrap_or(WitnessMerkleNode::all_zeros());
        let coinbase = coinbase(height, self.blocks_ever_mined, fees, &witness_root);
        if let Some(first) = block.txdata.first_mut() {
            *first = coinbase;
        }
        if let Some(root) = block.compute_merkle_root() {
            block.header.merkle_root = root;
        }
        let target = block.header.target();
        // Every second hash is low enough on regtest.
        while block.header.validate_pow(target).is_err() {
            block.header.nonce = block.header.nonce.wrapping_add(1);
        }
        self.connect(block, spent)
    }

    fn connect(&mut self, block: Block, spent: Vec<Vec<Coin>>) -> BlockHash {
        let hash = block.block_hash();
        let height = u32::try_from(self.blocks.len()).unwrap_or(u32::MAX);
        let mut confirmed = HashSet::new();
        for (index, (tx, coins)) in block.txdata.iter().zip(&spent).enumerate() {
            let txid = tx.compute_txid();
            let place = (height, index);
            confirmed.insert(txid);
            self.places.insert(txid, place);
            for script in scripts_touched(tx, coins) {
                let places = self.touching.entry(script.to_owned()).or_default();
                if places.last() != Some(&place) {
                    places.push(place);
                }
            }
            for input in &tx.input {
                self.coins.remove(&input.previous_output);
            }
            // The genesis coinbase cannot be spent, by consensus.
            let outputs = if height == 0 {
                &[]
            } else {
                tx.output.as_slice()
            };
            for (vout, output) in (0u32..).zip(outputs) {
                if !output.script_pubkey.is_op_return() {
                    let coin = Coin {
                        output: output.clone(),
                        height,
                        coinbase: index == 0,
                    };
                    self.coins.insert(OutPoint::new(txid, vout), coin);
                }
            }
        }
        self.mempool.remove(&confirmed);
        let median_time = self.median_with(block.header.time);
        self.blocks.push(ChainBlock {
            hash,
            block,
            median_time,
            spent,
        });
        hash
    }

    /// Undoes the last block and gives its transactions without the coinbase.
    fn disconnect(&mut self) -> Vec<Transaction> {
        let height = self.height();
        let Some(last) = self.blocks.pop() else {
            return Vec::new();
        };
        for (tx, coins) in last.block.txdata.iter().zip(&last.spent).rev() {
            let txid = tx.compute_txid();
            self.places.remove(&txid);
            for (vout, _) in (0u32..).zip(&tx.output) {
                self.coins.remove(&OutPoint::new(txid, vout));
            }
            for (input, coin) in tx.input.iter().zip(coins) {
                self.coins.insert(input.previous_output, coin.clone());
            }
            for script in scripts_touched(tx, coins) {
                if let Some(places) = self.touching.get_mut(script) {
                    while places.pop_if(|(at, _)| *at == height).is_some() {}
                }
            }
        }
        last.block.txdata.into_iter().skip(1).collect()
    }

    /// Median of `time` and the times of the last ten blocks.
    fn median_with(&self, time: u32) -> u32 {
        let mut times: Vec<u32> = self
            .blocks
            .iter()
            .rev()
            .take(MEDIAN_SPAN - 1)
            .map(|entry| entry.block.header.time)
            .chain([time])
            .collect();
        times.sort_unstable();
        times.get(times.len() / 2).copied().unwrap_or(time)
    }
}

/// The scripts a transaction pays or spends from.
fn scripts_touched<'a>(tx: &'a Transaction, spent: &'a [Coin]) -> impl Iterator<Item = &'a Script> {
    let paid = tx
        .output
        .iter()
        .map(|output| output.script_pubkey.as_script());
    paid.chain(
        spent
            .iter()
            .map(|coin| coin.output.script_pubkey.as_script()),
    )
}

/// The index of the input with which `tx` spends `output`.
fn spends(tx: &Transaction, output: &OutPoint) -> Option<usize> {
    tx.input
        .iter()
        .position(|input| input.previous_output == *output)
}

fn value_of_coins(coins: &[Coin]) -> Amount {
    coins.iter().map(|coin| coin.output.value).sum()
}

fn value_of_outputs(tx: &Transaction) -> Amount {
    tx.output.iter().map(|output| output.value).sum()
}
