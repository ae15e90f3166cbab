//! Watching the chain: polls addresses and hands on what changed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bitcoin::Address;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;

use crate::chain::{AddressHistory, ChainBackend, ChainError, ReadUpTo};
use crate::network::Network;

/// Polls of the tip between two readings of the histories when the tip stays: what enters the mempool
/// does not move the tip.
const MEMPOOL_EVERY: u32 = 8;

/// Blocks within which a signal should confirm, for the fee estimate.
const FEE_TARGET: u16 = 6;

/// What a poll found.
#[derive(Debug)]
pub(super) enum ChainNews {
    /// The history of an address, read at one tip, from where the last one of these that names the address may have
    /// changed; and the estimated fee rate in sat/vB.
    History {
        network: Network,
        address: Address,
        read: AddressHistory,
        fee_rate: Option<u32>,
    },
    /// The backend could not be read.
    Failed { network: Network, error: ChainError },
    /// The backend answers, for the network it should.
    Reached { network: Network, height: u32 },
}

/// One backend and the task that polls it.
#[derive(Debug)]
pub(super) struct Watch {
    pub(super) backend: ChainBackend,
    addresses: watch::Sender<Vec<Address>>,
    nudge: Arc<Notify>,
    task: JoinHandle<()>,
}

impl Watch {
    /// Starts polling.
    pub(super) fn start(
        network: Network,
        backend: ChainBackend,
        every: Duration,
        news: mpsc::Sender<ChainNews>,
    ) -> Self {
        let (addresses, listed) = watch::channel(Vec::new());
        let nudge = Arc::new(Notify::new());
        let poll = Poll {
            network,
            backend: backend.clone(),
            every,
            addresses: listed,
            nudge: Arc::clone(&nudge),
            news,
            told: HashMap::new(),
        };
        Self {
            backend,
            addresses,
            nudge,
            task: tokio::spawn(poll.run()),
        }
    }

    /// Replaces the addresses watched, and reads them soon.
    pub(super) fn set(&self, addresses: Vec<Address>) {
        if *self.addresses.borrow() != addresses {
            self.addresses.send_replace(addresses);
            self.nudge.notify_one();
        }
    }

    /// Reads everything soon, without waiting for the next poll.
    pub(super) fn nudge(&self) {
        self.nudge.notify_one();
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Poll {
    network: Network,
    backend: ChainBackend,
    every: Duration,
    addresses: watch::Receiver<Vec<Address>>,
    nudge: Arc<Notify>,
    news: mpsc::Sender<ChainNews>,
    /// Up to where the history of each address was told.
    told: HashMap<Address, ReadUpTo>,
}

impl Poll {
    async fn run(mut self) {
        let network = self.network;
        let mut proved = false;
        let mut last_tip = None;
        let mut quiet = 0;
        loop {
            let nudged = tokio::select! {
                () = tokio::time::sleep(self.every) => false,
                () = self.nudge.notified() => true,
            };
            let addresses = self.addresses.borrow_and_update().clone();
            if addresses.is_empty() {
                continue;
            }
            if !proved {
                // A backend of another chain would show other people's coins: nothing is read before.
                match self.backend.prove_network(network).await {
                    Ok(()) => proved = true,
                    Err(error) => {
                        if !self.tell(ChainNews::Failed { network, error }).await {
                            return;
                        }
                        continue;
                    }
                }
            }
            let tip = match self.backend.tip().await {
                Ok(tip) => tip,
                Err(error) => {
                    // Another node may answer after a failure: prove the chain again.
                    proved = false;
                    if !self.tell(ChainNews::Failed { network, error }).await {
                        return;
                    }
                    continue;
                }
            };
            let height = tip.height;
            if last_tip.is_none() && !self.tell(ChainNews::Reached { network, height }).await {
                return;
            }
            quiet += 1;
            let moved = last_tip != Some(tip.hash);
            if !moved && !nudged && quiet < MEMPOOL_EVERY {
                continue;
            }
            quiet = 0;
            last_tip = Some(tip.hash);
            match self.read(addresses).await {
                Some(all) => proved = all,
                None => return,
            }
        }
    }

    /// Reads every address, and says whether that went well; `None` when nobody listens any more.
    async fn read(&mut self, addresses: Vec<Address>) -> Option<bool> {
        let network = self.network;
        let mut all = true;
        let estimate = self.backend.fee_rate(FEE_TARGET).await.ok().flatten();
        let fee_rate =
            estimate.map(|rate| u32::try_from(rate.to_sat_per_vb_ceil()).unwrap_or(u32::MAX));
        self.told.retain(|address, _| addresses.contains(address));
        for address in addresses {
            let told = self.told.get(&address).copied();
            let news = match self.backend.address_history_above(&address, told).await {
                Ok(read) => {
                    if let Some(deep) = read.read_up_to() {
                        self.told.insert(address.clone(), deep);
                    } else if read.above.is_none() {
                        self.told.remove(&address);
                    }
                    ChainNews::History {
                        network,
                        address,
                        read,
                        fee_rate,
                    }
                }
                Err(error) => {
                    all = false;
                    ChainNews::Failed { network, error }
                }
            };
            if !self.tell(news).await {
                return None;
            }
        }
        Some(all)
    }

    async fn tell(&self, news: ChainNews) -> bool {
        self.news.send(news).await.is_ok()
    }
}
