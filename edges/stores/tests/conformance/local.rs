//! The model, and the embedded store.

use std::sync::{Arc, Mutex, Weak};

use mpp_hub::store::Store;
use mpp_stores::embedded::{self, EmbeddedStore, Options};
use mpp_stores::memory::MemoryStore;
use proptest::prelude::*;
use tempfile::TempDir;

use crate::history::{play, steps};
use crate::{Backend, SEED, Session, T0, keeps_the_contract};

/// Opened anew from the disk each time.
struct OnDisk {
    directory: TempDir,
    store: Mutex<Weak<EmbeddedStore>>,
}

impl OnDisk {
    fn new() -> Self {
        Self { directory: TempDir::new().unwrap(), store: Mutex::default() }
    }
}

impl Backend for OnDisk {
    fn open(&self) -> Arc<dyn Store> {
        let options = Options { seed: Some(SEED), ..Options::default() };
        let store = embedded::open(&self.directory.path().join("store"), &options).unwrap();
        *self.store.lock().unwrap() = Arc::downgrade(&store);
        store
    }

    fn compact(&self) {
        let store = self.store.lock().unwrap().upgrade();
        EmbeddedStore::compact(&store.unwrap()).unwrap();
    }
}

#[test]
fn the_model_keeps_the_contract() {
    keeps_the_contract("the model", || Box::new(Arc::new(MemoryStore::new(SEED))));
}

#[test]
fn in_memory_the_contract_is_kept() {
    keeps_the_contract("embedded, in memory", || Box::new(EmbeddedStore::in_memory(SEED)));
}

#[test]
fn on_disk_the_contract_is_kept() {
    keeps_the_contract("embedded, on disk", || Box::new(OnDisk::new()));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn in_memory_it_does_as_the_model_does(steps in steps()) {
        let backend = EmbeddedStore::in_memory(SEED);
        let (store, backend) = (backend.open(), &backend as &dyn Backend);
        play(&mut Session { name: "embedded, in memory", backend, store, now_ms: T0 }, &steps)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn on_disk_it_does_as_the_model_does(steps in steps()) {
        let backend = OnDisk::new();
        let (store, backend) = (backend.open(), &backend as &dyn Backend);
        play(&mut Session { name: "embedded, on disk", backend, store, now_ms: T0 }, &steps)?;
    }
}
