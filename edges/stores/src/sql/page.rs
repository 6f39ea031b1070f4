//! Reading all that a database holds, a page at a time.
//!
//! A place in it is one number: for cells the kind in the first byte and the beginning of a key; with
//! the first bit set, the number of a table of first tries and the beginning of a key. A page ends
//! before a key that begins as the next page does, so no cell is read twice.

use mpp_engine::question::{Key, Shelf};

use super::names::{Bucket, Kind, Name, position};
use super::state::State;
use crate::record::{Record, read_block_cell};
use crate::shared::cells::{count_records, history_records, moment_record, set_records};
use crate::shared::is_dear_shelf;
use crate::shared::remote::{Trouble, Wanted};

/// Cells of a page.
const PAGE: usize = 2_000;
/// The first bit: a place in a table of first tries.
const FIRSTS: u64 = 1 << 63;
/// Bits of a key that a place among cells leaves out.
const CELL_BITS: u32 = 8;
/// Bits of a key that a place among first tries leaves out, the number of the table being 26 bits long.
const FIRST_BITS: u32 = 27;

impl State {
    /// What there is from a place on, and where to go on.
    pub(super) async fn page(
        &mut self,
        from: u64,
        wanted: Wanted,
    ) -> Result<(Vec<Record>, Option<u64>), Trouble> {
        let kind = |at: u64| {
            let is_next = |kind: &Kind| u64::from(kind.number()) >= at;
            Kind::all().filter(|kind| is_wanted(*kind, wanted)).find(is_next)
        };
        let firsts = (wanted == Wanted::All).then_some(FIRSTS);
        if from & FIRSTS != 0 {
            return self.page_of_firsts(from).await;
        }
        let Some(this) = kind(from >> 56) else { return Ok((Vec::new(), firsts)) };
        let number = this.number();
        let start = if u64::from(number) == from >> 56 { from << CELL_BITS } else { 0 };
        let (start, end) = (position(number, start), position(number + 1, 0));
        let mut rows = self.link.scan_cells(&start, &end, PAGE).await?;
        let names = rows.iter().filter_map(|(name, _)| Name::of_bytes(name));
        let next = match ends(&names.map(|name| name.key).collect::<Vec<_>>(), CELL_BITS) {
            Some((many, next)) => {
                rows.truncate(many);
                Some(u64::from(number) << 56 | next)
            }
            None => kind(u64::from(number) + 1).map(|kind| u64::from(kind.number()) << 56),
        };
        let mut records = Vec::new();
        for (name, cell) in &rows {
            if let Some(name) = Name::of_bytes(name) {
                cell_records(name, cell, &mut records);
            }
        }
        Ok((records, next.or(firsts)))
    }

    async fn page_of_firsts(&mut self, from: u64) -> Result<(Vec<Record>, Option<u64>), Trouble> {
        self.begin(false).await?;
        self.commit(None).await?;
        let at = from & !FIRSTS;
        let id = u32::try_from(at >> (63 - 26)).unwrap_or(u32::MAX);
        let mut buckets = self.buckets.iter().copied().filter(|bucket| bucket.id() >= id);
        let Some(bucket) = buckets.next() else { return Ok((Vec::new(), None)) };
        let after = buckets.next().map(|bucket| FIRSTS | place(bucket, 0));
        let start = if bucket.id() == id { at << FIRST_BITS } else { 0 };
        let mut rows = self.link.scan_firsts(bucket, start, PAGE).await?;
        let keys: Vec<u64> = rows.iter().map(|(key, _)| *key).collect();
        let next = match ends(&keys, FIRST_BITS) {
            Some((many, next)) => {
                rows.truncate(many);
                Some(FIRSTS | place(bucket, next))
            }
            None => after,
        };
        let record =
            |(key, cell): &(u64, Vec<u8>)| moment_record(Shelf::Greylisted, Key(*key), cell);
        Ok((rows.iter().filter_map(record).collect(), next))
    }
}

/// A place in a table of first tries, without the first bit.
fn place(bucket: Bucket, prefix: u64) -> u64 {
    u64::from(bucket.id()) << (63 - 26) | prefix
}

/// How many of these keys make a page, and how the keys behind it begin; nothing if there are none.
fn ends(keys: &[u64], bits: u32) -> Option<(usize, u64)> {
    let last = keys.last().filter(|_| keys.len() >= PAGE)? >> bits;
    match keys.iter().position(|key| key >> bits == last) {
        // So many that begin alike are not of hashes; those behind them are left out.
        Some(0) | None => Some((keys.len(), last + 1)),
        Some(many) => Some((many, last)),
    }
}

fn is_wanted(kind: Kind, wanted: Wanted) -> bool {
    match kind {
        Kind::Block(_) => true,
        Kind::Moment(shelf) => wanted == Wanted::All || is_dear_shelf(shelf),
        Kind::Count | Kind::Set | Kind::History => wanted == Wanted::All,
        Kind::Node => false,
    }
}

/// What a cell says, as records for another store.
fn cell_records(name: Name, cell: &[u8], out: &mut Vec<Record>) {
    let key = Key(name.key);
    match name.kind {
        Kind::Moment(shelf) => out.extend(moment_record(shelf, key, cell)),
        Kind::Count => out.extend(count_records(key, cell)),
        Kind::Set => out.extend(set_records(key, cell)),
        Kind::History => out.extend(history_records(key, cell).into_iter().flatten()),
        Kind::Block(kind) => {
            let block = |(block, subject)| Record::Block { kind, key, block, subject };
            let found = read_block_cell(cell);
            out.extend(found.map(block));
        }
        Kind::Node => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_ends_where_the_next_begins() {
        let keys: Vec<u64> = (0..PAGE as u64).map(|number| number << 4).collect();
        let (many, next) = ends(&keys, 8).unwrap();
        assert_eq!(many, 1_984);
        assert!(keys[..many].iter().all(|key| key >> 8 < next));
        assert!(keys[many..].iter().all(|key| key >> 8 >= next));
        assert_eq!(ends(&keys[1..], 8), None);
        assert_eq!(ends(&vec![7; PAGE], 8), Some((PAGE, 1)));
    }
}
