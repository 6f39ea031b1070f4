//! Connections to next hops that nobody uses now. Most messages then need no new one.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::gate::{Gate, HopPlace, Setup};
use super::next_hop::NextHop;

/// So many are kept for each thread; more are not worth their memory at the other side.
const KEPT_MAX: usize = 64;
/// How often those that were kept long enough are looked for.
const SWEEP: Duration = Duration::from_millis(500);

/// What one thread keeps.
#[derive(Default)]
pub struct Pool(Mutex<Vec<(Instant, NextHop)>>);

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pool")
    }
}

impl Pool {
    fn kept(&self) -> MutexGuard<'_, Vec<(Instant, NextHop)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes leave of what nobody needs any more. Runs for as long as the pool is there.
    pub async fn sweep(self: Arc<Self>, gate: Arc<Gate>) {
        let pool = Arc::downgrade(&self);
        drop(self);
        loop {
            tokio::time::sleep(SWEEP).await;
            let Some(pool) = pool.upgrade() else { return };
            let setup = gate.setup();
            let keep = Duration::from_millis(setup.proxy.limits.keep_ms);
            let is_over = |(since, hop): &mut (Instant, NextHop)| {
                since.elapsed() >= keep || hop.generation != setup.generation
            };
            let over: Vec<_> = pool.kept().extract_if(.., is_over).collect();
            for (_, hop) in over {
                tokio::spawn(hop.quit());
            }
        }
    }

    /// A connection to a hop: one that is kept, or a new one.
    ///
    /// # Errors
    /// As [`NextHop::open`].
    pub(crate) async fn take(
        &self,
        gate: &Gate,
        setup: &Setup,
        number: usize,
    ) -> Result<NextHop, String> {
        loop {
            let kept = {
                let mut kept = self.kept();
                let is_it = |(_, hop): &(Instant, NextHop)| {
                    hop.hop == number && hop.generation == setup.generation
                };
                kept.iter().rposition(is_it).map(|place| kept.remove(place).1)
            };
            match kept {
                Some(mut hop) => {
                    if hop.is_quiet().await {
                        return Ok(hop);
                    }
                }
                None => return NextHop::open(gate, setup, number).await,
            }
        }
    }

    /// Takes a connection back, with whether a message was begun on it, which the hop is made to forget. Its
    /// place among those at the hop is given up when it has.
    pub(crate) fn give_back(
        self: &Arc<Self>,
        (mut hop, is_begun): (NextHop, bool),
        place: Option<HopPlace>,
        setup: &Arc<Setup>,
    ) {
        if !is_begun {
            return self.keep(hop, setup);
        }
        let (pool, setup) = (Arc::clone(self), Arc::clone(setup));
        tokio::spawn(async move {
            if hop.forget().await.is_ok() {
                pool.keep(hop, &setup);
            }
            drop(place);
        });
    }

    /// Keeps a connection on which no message is under way.
    pub(crate) fn keep(&self, mut hop: NextHop, setup: &Setup) {
        if setup.proxy.limits.keep_ms == 0 || hop.generation != setup.generation {
            tokio::spawn(hop.quit());
            return;
        }
        hop.is_used = true;
        let mut kept = self.kept();
        if kept.len() < KEPT_MAX {
            kept.push((Instant::now(), hop));
        }
    }
}
