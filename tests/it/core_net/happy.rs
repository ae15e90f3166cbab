//! Happy paths.

use btcr2_agent::network::Network;
use btcr2_agent::protocol::terms::CohortBeacon;

use super::net::{Net, Setup, update};

#[test]
fn all_update_smt_and_cas_for_several_sizes_and_networks() {
    let networks = [
        Network::Regtest,
        Network::Signet,
        Network::Testnet4,
        Network::Mutinynet,
    ];
    for beacon in [CohortBeacon::Smt, CohortBeacon::Cas] {
        for (n, network) in [2, 3, 5, 7].into_iter().zip(networks) {
            let mut net = Net::ready(Setup::new(beacon, n).terms(|terms| terms.network = network));
            for i in 0..n {
                net.queue(i, 0, &format!("{i}"));
            }
            let tx = net.round();
            assert_eq!(tx.input.len(), 1);
            assert_eq!(net.chain.verified, 1);
            for i in 0..n {
                assert_eq!(net.proved(i, 0), [Some(Some(update(&format!("{i}"))))]);
            }
        }
    }
}
