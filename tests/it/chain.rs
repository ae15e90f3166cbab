//! The chain backends against the in-process regtest chain: over HTTP on loopback, as users have it.

mod blocks;
mod compared;
mod core_rpc;
mod core_server;
mod erring_servers;
mod esplora;
mod limits;
mod reading_on;
mod regtest;
mod settled;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bitcoin::absolute::LockTime;
use bitcoin::hashes::Hash as _;
use bitcoin::key::{Keypair, TapTweak as _, TweakedKeypair};
use bitcoin::script::PushBytesBuf;
use bitcoin::secp256k1::{Message, SECP256K1, SecretKey};
use bitcoin::sighash::{Prevouts, SighashCache, TapSighashType};
use bitcoin::transaction::Version;
use bitcoin::{
    Address, Amount, FeeRate, OutPoint, ScriptBuf, Sequence, Transaction, TxIn, TxOut, Txid,
    Witness,
};
use btcr2_agent::chain::{
    AddressHistory, BroadcastError, ChainBackend, ChainError, FundError, RegtestChain,
    RegtestServer, Reject, Rejection, ServerError, ServerSettings, TxStatus, stepping_clock,
};
use btcr2_agent::network::Network;
use btcr2_agent::time::UnixTime;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const START: UnixTime = UnixTime(1_760_000_000);
pub(crate) const LOCALHOST: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

fn chain() -> RegtestChain {
    RegtestChain::new(stepping_clock(START, 30))
}

async fn serve(settings: ServerSettings) -> (RegtestServer, ChainBackend) {
    let server = RegtestServer::serve(LOCALHOST, chain(), settings)
        .await
        .unwrap();
    let backend = ChainBackend::esplora(&server.url(), Duration::from_secs(10)).unwrap();
    (server, backend)
}

pub(crate) fn sat(value: u64) -> Amount {
    Amount::from_sat(value)
}

/// A taproot output that one key spends by the key path, and what it may be used for.
pub(crate) struct Wallet {
    tweaked: TweakedKeypair,
}

impl Wallet {
    pub(crate) fn new(seed: u8) -> Self {
        let secret = SecretKey::from_slice(&[seed; 32]).unwrap();
        let tweaked = Keypair::from_secret_key(SECP256K1, &secret).tap_tweak(SECP256K1, None);
        Self { tweaked }
    }

    pub(crate) fn script(&self) -> ScriptBuf {
        ScriptBuf::new_p2tr_tweaked(self.tweaked.public_parts().0)
    }

    pub(crate) fn address(&self) -> Address {
        Address::from_script(&self.script(), bitcoin::Network::Regtest).unwrap()
    }

    /// Spends `inputs` to `outputs`, signed.
    pub(crate) fn spend(&self, inputs: &[(OutPoint, TxOut)], outputs: Vec<TxOut>) -> Transaction {
        self.spend_with(
            inputs,
            outputs,
            Sequence::ENABLE_RBF_NO_LOCKTIME,
            LockTime::ZERO,
        )
    }

    pub fn spend_with(
        &self,
        inputs: &[(OutPoint, TxOut)],
        outputs: Vec<TxOut>,
        sequence: Sequence,
        lock_time: LockTime,
    ) -> Transaction {
        let mut tx = Transaction {
            version: Version::TWO,
            lock_time,
            input: inputs
                .iter()
                .map(|(outpoint, _)| TxIn {
                    previous_output: *outpoint,
                    script_sig: ScriptBuf::new(),
                    sequence,
                    witness: Witness::new(),
                })
                .collect(),
            output: outputs,
        };
        let prevouts: Vec<TxOut> = inputs.iter().map(|(_, output)| output.clone()).collect();
        self.sign(&mut tx, &prevouts);
        tx
    }

    fn sign(&self, tx: &mut Transaction, prevouts: &[TxOut]) {
        for index in 0..prevouts.len() {
            let sighash = SighashCache::new(&*tx)
                .taproot_key_spend_signature_hash(
                    index,
                    &Prevouts::All(prevouts),
                    TapSighashType::Default,
                )
                .unwrap();
            let message = Message::from_digest(sighash.to_byte_array());
            let signature =
                SECP256K1.sign_schnorr_no_aux_rand(&message, &self.tweaked.to_keypair());
            tx.input[index].witness = Witness::from_slice(&[signature.as_ref()]);
        }
    }
}

pub(crate) fn pay(script: ScriptBuf, value: u64) -> TxOut {
    TxOut {
        value: sat(value),
        script_pubkey: script,
    }
}

pub(crate) fn signal_output(bytes: [u8; 32]) -> TxOut {
    pay(ScriptBuf::new_op_return(PushBytesBuf::from(bytes)), 0)
}

/// A confirmed output of `value` at `wallet`.
pub(crate) fn funded(chain: &mut RegtestChain, wallet: &Wallet, value: u64) -> (OutPoint, TxOut) {
    let outpoint = chain.fund(&wallet.script(), sat(value)).unwrap();
    chain.mine(1);
    (outpoint, pay(wallet.script(), value))
}

pub fn by_txid(history: &AddressHistory) -> HashMap<Txid, (Transaction, Option<u32>)> {
    let map: HashMap<_, _> = history
        .txs
        .iter()
        .map(|entry| (entry.tx.compute_txid(), ((*entry.tx).clone(), entry.height)))
        .collect();
    assert_eq!(
        map.len(),
        history.txs.len(),
        "a transaction is listed twice"
    );
    map
}

/// A server whose wallet got `payments` payments and spent one of them.
async fn busy_server(wallet: &Wallet, payments: u64) -> RegtestServer {
    let (server, _) = serve(ServerSettings::default()).await;
    let chain = server.chain();
    let mut chain = chain.lock().unwrap();
    let coins: Vec<_> = (0..payments)
        .map(|n| funded(&mut chain, wallet, 50_000 + n))
        .collect();
    let spend = wallet.spend(
        &coins[..1],
        vec![pay(wallet.script(), 40_000), signal_output([4; 32])],
    );
    chain.submit(&spend).unwrap();
    chain.mine(1);
    server
}

/// The body of the answer, which must be a success, to a request without a body.
async fn http(method: &str, url: &str) -> String {
    let (host, path) = url
        .strip_prefix("http://")
        .unwrap()
        .split_once('/')
        .unwrap();
    let mut socket = TcpStream::connect(host).await.unwrap();
    let request = format!(
        "{method} /{path} HTTP/1.1\r\nhost: {host}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    );
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{answer}");
    body.to_owned()
}

async fn post(url: &str) -> serde_json::Value {
    serde_json::from_str(&http("POST", url).await).unwrap()
}
