//! Targets over files that other tools wrote.

use btcr2_agent::beacon::psbt::Packet;

/// A PSBT, or its base64: in either version of the format it is the same, and its inputs are checked one by one.
pub fn psbt(data: &[u8]) -> bool {
    let Ok(packet) = Packet::from_file(data) else {
        return false;
    };
    let zero = packet.psbt().serialize();
    let again = Packet::parse(&zero).expect("what was read can be written");
    assert_eq!((again.version(), again.psbt()), (0, packet.psbt()));
    let two = Packet::to_version_2(&zero).expect("what was read can be written");
    let again = Packet::parse(&two).expect("what was written can be read");
    assert_eq!((again.version(), again.psbt()), (2, packet.psbt()));
    assert_eq!(packet.check().len(), packet.tx().input.len());
    let mut scripts = packet
        .psbt()
        .inputs
        .iter()
        .filter_map(|input| input.final_script_sig.as_ref());
    if scripts.all(|script| script.is_empty()) {
        assert_eq!(packet.extracted().compute_txid(), packet.txid());
    }
    let _ = packet.fee();
    true
}
