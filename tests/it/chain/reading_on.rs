//! A reader that is told only what it does not have knows what one that is told everything knows, with every backend.

use btcr2_agent::beacon::history::AddressHistory;
use btcr2_agent::chain::ReadUpTo;

use super::core_server::{CoreServer, Setup};
use super::*;

/// What the agent's poll and its history do together.
struct Reader {
    backend: ChainBackend,
    wallet: Wallet,
    history: AddressHistory,
    up_to: Option<ReadUpTo>,
}

impl Reader {
    /// Reads on; whether it was told a part only, and how many transactions.
    async fn read(&mut self) -> (bool, usize) {
        let address = self.wallet.address();
        let told = self.backend.address_history_above(&address, self.up_to);
        let told = told.await.unwrap();
        let whole = self.backend.address_history(&address).await.unwrap();
        assert_eq!(whole.above, None);
        if let Some(deep) = told.read_up_to() {
            self.up_to = Some(deep);
        } else if told.above.is_none() {
            self.up_to = None;
        }
        let (part, count) = (told.above.is_some(), told.txs.len());
        assert!(told.blocks.keys().all(|height| Some(*height) > told.above));
        self.history.read_on(told.above, told.tip_height, told.txs);
        let script = self.wallet.script();
        let anew = AddressHistory::new(script, whole.tip_height, whole.txs);
        assert_eq!(self.history, anew);
        (part, count)
    }
}

#[tokio::test]
async fn a_reader_is_told_what_it_does_not_have() {
    let (server, esplora) = serve(ServerSettings::default()).await;
    let core = CoreServer::start(server.chain(), Setup::default()).await;
    let core = core.backend();
    let backends = [
        esplora.clone(),
        core.clone(),
        ChainBackend::compared(esplora, vec![core]),
    ];
    let mut readers = backends.map(|backend| {
        let wallet = Wallet::new(61);
        Reader {
            history: AddressHistory::new(wallet.script(), 0, []),
            backend,
            wallet,
            up_to: None,
        }
    });
    let chain = server.chain();
    let script = Wallet::new(61).script();
    let blocks = |count: u32| {
        let mut chain = chain.lock().unwrap();
        for _ in 0..count {
            chain.fund(&script, sat(30_000)).unwrap();
            chain.mine(1);
        }
    };
    blocks(40);
    for reader in &mut readers {
        assert_eq!(reader.read().await, (false, 40));
        assert_eq!(
            reader.read().await,
            (true, 6),
            "what lies in the last blocks"
        );
    }
    // A few blocks more, then some of them are replaced, and one payment waits.
    for undone in [0, 3, 5] {
        blocks(2);
        {
            let mut chain = chain.lock().unwrap();
            chain.invalidate_tip(undone);
            chain.mine_empty(undone + 1);
            chain.fund(&script, sat(40_000)).unwrap();
        }
        for reader in &mut readers {
            let (part, count) = reader.read().await;
            assert!(part && count < 14, "{undone}: {count}");
        }
    }
    // The block that the readers name is gone: they are told everything.
    {
        let mut chain = chain.lock().unwrap();
        chain.invalidate_tip(20);
        chain.mine_empty(30);
    }
    for reader in &mut readers {
        let (part, count) = reader.read().await;
        assert!(!part && count > 20, "{count}");
    }
    server.shutdown().await;
}
