//! The Esplora API's JSON for blocks, transactions and outputs of the regtest chain.
//!
//! Field names and meanings: Esplora's API.md, sections "Transaction format" and "Block format".

use bitcoin::consensus::encode::serialize;
use bitcoin::hex::DisplayHex as _;
use bitcoin::{
    Address, Amount, BlockHash, Network, OutPoint, ScriptBuf, TxMerkleNode, TxOut, Txid,
};
use serde::Serialize;

use super::regtest::{ChainBlock, Located};

/// `GET /tx/:txid`
#[derive(Serialize)]
pub(super) struct TxJson {
    txid: Txid,
    version: i32,
    locktime: u32,
    vin: Vec<VinJson>,
    vout: Vec<VoutJson>,
    size: usize,
    weight: u64,
    fee: u64,
    status: StatusJson,
}

/// `GET /tx/:txid/status`, and inside other answers.
#[derive(Serialize)]
pub(super) struct StatusJson {
    pub(super) confirmed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    block_height: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    block_hash: Option<BlockHash>,
    #[serde(skip_serializing_if = "Option::is_none")]
    block_time: Option<u32>,
}

#[derive(Serialize)]
struct VinJson {
    txid: Txid,
    vout: u32,
    prevout: Option<VoutJson>,
    scriptsig: String,
    scriptsig_asm: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    witness: Vec<String>,
    is_coinbase: bool,
    sequence: u32,
}

#[derive(Serialize)]
struct VoutJson {
    scriptpubkey: String,
    scriptpubkey_asm: String,
    scriptpubkey_type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    scriptpubkey_address: Option<String>,
    value: u64,
}

/// `GET /block/:hash`
#[derive(Serialize)]
pub(super) struct BlockJson {
    id: BlockHash,
    height: u32,
    version: i32,
    timestamp: u32,
    tx_count: usize,
    size: usize,
    weight: u64,
    merkle_root: TxMerkleNode,
    previousblockhash: Option<BlockHash>,
    mediantime: u32,
    nonce: u32,
    bits: u32,
    difficulty: f64,
}

/// `GET /block/:hash/status`
#[derive(Serialize)]
pub(super) struct BlockStatusJson {
    pub(super) in_best_chain: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) height: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) next_best: Option<BlockHash>,
}

/// An entry of `GET /address/:address/utxo`
#[derive(Serialize)]
pub(super) struct UtxoJson {
    txid: Txid,
    vout: u32,
    status: StatusJson,
    value: u64,
}

/// `GET /tx/:txid/outspend/:vout`
#[derive(Serialize)]
pub(super) struct OutspendJson {
    spent: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    txid: Option<Txid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    vin: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<StatusJson>,
}

impl TxJson {
    pub(super) fn new(located: &Located<'_>) -> Self {
        let tx = located.tx;
        let is_coinbase = tx.is_coinbase();
        let spent: Amount = located.spent.iter().map(|coin| coin.output.value).sum();
        let paid: Amount = tx.output.iter().map(|output| output.value).sum();
        let vin = tx
            .input
            .iter()
            .enumerate()
            .map(|(index, input)| VinJson {
                txid: input.previous_output.txid,
                vout: input.previous_output.vout,
                prevout: located
                    .spent
                    .get(index)
                    .map(|coin| VoutJson::new(&coin.output)),
                scriptsig: input.script_sig.to_hex_string(),
                scriptsig_asm: input.script_sig.to_asm_string(),
                witness: input
                    .witness
                    .iter()
                    .map(|item| item.to_lower_hex_string())
                    .collect(),
                is_coinbase,
                sequence: input.sequence.0,
            })
            .collect();
        Self {
            txid: tx.compute_txid(),
            version: tx.version.0,
            locktime: tx.lock_time.to_consensus_u32(),
            vin,
            vout: tx.output.iter().map(VoutJson::new).collect(),
            size: tx.total_size(),
            weight: tx.weight().to_wu(),
            // A coinbase creates value; its fee is none.
            fee: spent.checked_sub(paid).unwrap_or(Amount::ZERO).to_sat(),
            status: StatusJson::new(located),
        }
    }
}

impl StatusJson {
    pub(super) fn new(located: &Located<'_>) -> Self {
        Self {
            confirmed: located.block.is_some(),
            block_height: located.block.map(|(height, _)| height),
            block_hash: located.block.map(|(_, block)| block.hash),
            block_time: located.block.map(|(_, block)| block.block.header.time),
        }
    }
}

impl VoutJson {
    fn new(output: &TxOut) -> Self {
        let script = &output.script_pubkey;
        Self {
            scriptpubkey: script.to_hex_string(),
            scriptpubkey_asm: script.to_asm_string(),
            scriptpubkey_type: script_type(script),
            scriptpubkey_address: Address::from_script(script, Network::Regtest)
                .ok()
                .map(|address| address.to_string()),
            value: output.value.to_sat(),
        }
    }
}

impl BlockJson {
    pub(super) fn new(height: u32, entry: &ChainBlock) -> Self {
        let header = &entry.block.header;
        Self {
            id: entry.hash,
            height,
            version: header.version.to_consensus(),
            timestamp: header.time,
            tx_count: entry.block.txdata.len(),
            size: serialize(&entry.block).len(),
            weight: entry.block.weight().to_wu(),
            merkle_root: header.merkle_root,
            previousblockhash: (height > 0).then_some(header.prev_blockhash),
            mediantime: entry.median_time,
            nonce: header.nonce,
            bits: header.bits.to_consensus(),
            difficulty: header.difficulty_float(),
        }
    }
}

impl UtxoJson {
    pub(super) fn new(output: OutPoint, value: Amount, located: &Located<'_>) -> Self {
        Self {
            txid: output.txid,
            vout: output.vout,
            status: StatusJson::new(located),
            value: value.to_sat(),
        }
    }
}

impl OutspendJson {
    pub(super) fn new(spender: Option<(Located<'_>, usize)>) -> Self {
        let Some((located, input)) = spender else {
            return Self {
                spent: false,
                txid: None,
                vin: None,
                status: None,
            };
        };
        Self {
            spent: true,
            txid: Some(located.tx.compute_txid()),
            vin: Some(input),
            status: Some(StatusJson::new(&located)),
        }
    }
}

fn script_type(script: &ScriptBuf) -> &'static str {
    if script.is_empty() {
        "empty"
    } else if script.is_op_return() {
        "op_return"
    } else if script.is_p2tr() {
        "v1_p2tr"
    } else if script.is_p2wpkh() {
        "v0_p2wpkh"
    } else if script.is_p2wsh() {
        "v0_p2wsh"
    } else if script.is_p2pkh() {
        "p2pkh"
    } else if script.is_p2sh() {
        "p2sh"
    } else if script.is_p2pk() {
        "p2pk"
    } else if script.is_multisig() {
        "multisig"
    } else {
        "unknown"
    }
}
