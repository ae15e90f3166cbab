//! Relays and adverts without a running daemon.

use std::path::Path;

use crate::agent::backend::{discover as search, probing, relays};
use crate::agent::control::Failure;
use crate::agent::control::request::{AddRelay, Discover, ProbeRelays, RemoveRelay};
use crate::agent::control::views::{DiscoverView, RelayListView, RelayProbeView};
use crate::agent::launch::{self, RelaySetting};
use crate::agent::relay_health::{self, RelayRecord};
use crate::cli::output::now;
use crate::config::{Config, Home};
use crate::store::Store;

/// The configured relays; all states are `unused`.
pub fn relay_list(home: &Path) -> Result<RelayListView, Failure> {
    let (home, _, settings) = look(home)?;
    Ok(relays::unused(&settings, &remembered(&home)?, now()))
}

/// Adds or changes a relay of the home directory.
pub fn relay_add(home: &Path, args: AddRelay) -> Result<RelayListView, Failure> {
    change(home, |_, _, store| relays::add(store, &args, now()))
}

/// Removes a relay from the home directory; `not_found` when it is not there.
pub fn relay_remove(home: &Path, args: RemoveRelay) -> Result<RelayListView, Failure> {
    change(home, |home, config, store| {
        relays::remove(home, config, store, &args.url).map(drop)
    })
}

/// Tries relays with a key made for the occasion. What it leaves there is noted for the next time, if
/// there is a home and nobody holds it.
pub async fn relay_probe(home: &Path, args: ProbeRelays) -> Result<RelayProbeView, Failure> {
    let (home, config, settings) = look(home)?;
    let (view, found) = probing::probe(&settings, &args, &remembered(&home)?, now()).await?;
    if home.store_path().exists()
        && let Ok(_lock) = home.lock()
    {
        let mut store = launch::open_store(&home, &config)?;
        for one in found {
            relay_health::note(&mut store, now(), &one.url, |known| one.keep(known, now()))
                .map_err(launch::store_failure)?;
        }
    }
    Ok(view)
}

/// What is remembered of relays.
fn remembered(home: &Home) -> Result<Vec<RelayRecord>, Failure> {
    let path = home.store_path();
    if !path.exists() {
        return Ok(Vec::new());
    }
    let store = Store::open_read_only(&path).map_err(launch::store_failure)?;
    relay_health::known(&store).map_err(launch::store_failure)
}

/// Looks for adverts, over connections without a key.
pub async fn discover(home: &Path, args: Discover) -> Result<DiscoverView, Failure> {
    let (_, config, settings) = look(home)?;
    let network = args.network.unwrap_or(config.network);
    let of_network = settings
        .iter()
        .filter(|setting| setting.entry.read && setting.entry.networks.contains(&network))
        .map(launch::relay_config)
        .collect();
    search::without_agent(&config, of_network, &args, now()).await
}

/// Reads a home that may not be there yet, changing nothing.
fn look(home: &Path) -> Result<(Home, Config, Vec<RelaySetting>), Failure> {
    let home = launch::home(home)?;
    let config = launch::load_config(&home)?;
    let path = home.store_path();
    let by_hand = if path.exists() {
        let store = Store::open_read_only(&path).map_err(launch::store_failure)?;
        store.view().relays().map_err(launch::store_failure)?
    } else {
        Vec::new()
    };
    let settings = launch::relay_settings(&home, &config, &by_hand)?;
    Ok((home, config, settings))
}

/// Changes a home that no daemon holds.
fn change(
    home: &Path,
    work: impl FnOnce(&Home, &Config, &mut Store) -> Result<(), Failure>,
) -> Result<RelayListView, Failure> {
    let home = launch::home(home)?;
    home.check().map_err(launch::home_failure)?;
    let lock = home.lock().map_err(launch::home_failure)?;
    let config = launch::load_config(&home)?;
    let mut store = launch::open_store(&home, &config)?;
    work(&home, &config, &mut store)?;
    let by_hand = store.view().relays().map_err(launch::store_failure)?;
    let settings = launch::relay_settings(&home, &config, &by_hand)?;
    let known = relay_health::known(&store).map_err(launch::store_failure)?;
    drop(lock);
    Ok(relays::unused(&settings, &known, now()))
}
