//! Files of Berkeley DB that hold a btree, as `DB_BTREE` of the versions 4 to 18 writes them, page by
//! page.
//!
//! Every leaf holds its keys with their values, so the leaves are read in the order of the file and
//! not by way of the root: each page once, whatever the pages say of each other. What lies in a log
//! beside the file is not in it.

/// Bytes of the first page that say what the file is.
pub const HEAD_BYTES: usize = 512;
/// Bytes of a key or value at the most; longer ones are left out.
pub const ITEM_BYTES_MAX: usize = 64 * 1024;

/// What a btree begins with, behind the first twelve bytes.
const MAGIC: u32 = 0x0005_3162;
/// The forms of the file that are known: Berkeley DB 4 and 5, then 6 to 18.
const VERSIONS: [u32; 2] = [9, 10];
const PAGE_BYTES: [u32; 2] = [512, 65_536];
/// Kinds of pages.
const LEAF: u8 = 5;
const OVERFLOW: u8 = 7;
const META: u8 = 9;
/// Kinds of items.
const IN_PAGE: u8 = 1;
const ON_OTHER_PAGES: u8 = 3;
const DELETED: u8 = 0x80;
/// Every page begins with so many bytes of its own.
const PAGE_HEAD_BYTES: usize = 26;

/// Why a file cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// It is something else.
    #[error("it is no btree of Berkeley DB")]
    Other,
    /// A form that is not known.
    #[error("it is a btree of the form {0}; known are 9 and 10")]
    Version(u32),
    /// Its pages hold more than items.
    #[error("its pages are encrypted or have checksums")]
    Guarded,
}

/// A file, from its head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Btree {
    page_bytes: u32,
    last_page: u32,
    is_swapped: bool,
}

/// A key or a value of a leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item<'p> {
    /// It stands there.
    Here(&'p [u8]),
    /// It is so long that it has pages of its own.
    Elsewhere {
        /// The first of them.
        page: u32,
        /// How long it is.
        bytes: u32,
    },
}

/// What a page is.
#[derive(Clone, Debug)]
pub enum Page<'p> {
    /// Keys with values.
    Leaf(Leaf<'p>),
    /// Anything else, or nothing yet.
    Other,
    /// Not what a page looks like, or another page than the one that was wanted.
    Damaged,
}

/// The pairs of a leaf, in order.
#[derive(Clone, Debug)]
pub struct Leaf<'p> {
    bytes: &'p [u8],
    is_swapped: bool,
    entries: usize,
    at: usize,
}

/// A pair that does not lie inside its page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken;

impl Btree {
    /// Reads the head of a file, [`HEAD_BYTES`] or the whole first page.
    ///
    /// # Errors
    /// It is another kind of file.
    pub fn parse(head: &[u8]) -> Result<Self, Unreadable> {
        let number = |is_swapped, at| number_at(head, at, is_swapped).ok_or(Unreadable::Other);
        let is_swapped = match number(false, 12)? {
            MAGIC => false,
            other if other == MAGIC.swap_bytes() => true,
            _ => return Err(Unreadable::Other),
        };
        let version = number(is_swapped, 16)?;
        if !VERSIONS.contains(&version) {
            return Err(Unreadable::Version(version));
        }
        let page_bytes = number(is_swapped, 20)?;
        let [least, most] = PAGE_BYTES;
        let is_page = page_bytes.is_power_of_two() && (least..=most).contains(&page_bytes);
        match head.get(24..27) {
            Some(&[0, META, 0]) if is_page => {
                let last_page = number(is_swapped, 32)?;
                Ok(Self { page_bytes, last_page, is_swapped })
            }
            Some(&[_, META, _]) if is_page => Err(Unreadable::Guarded),
            _ => Err(Unreadable::Other),
        }
    }

    /// How long each page is.
    pub fn page_bytes(self) -> usize {
        self.page_bytes as usize
    }

    /// The number of the last page, by what the head says; the first is 0.
    pub fn last_page(self) -> u32 {
        self.last_page
    }

    /// What a page holds. It must be as long as a page, and know its own number.
    pub fn page(self, number: u32, bytes: &[u8]) -> Page<'_> {
        let Some((kind, entries)) = self.head(number, bytes) else {
            // Pages that were never written are nothing but zeros.
            let is_blank = bytes.len() == self.page_bytes() && bytes.iter().all(|byte| *byte == 0);
            return if is_blank { Page::Other } else { Page::Damaged };
        };
        if kind != LEAF {
            return Page::Other;
        }
        let entries = usize::from(entries);
        if PAGE_HEAD_BYTES + entries * 2 > bytes.len() {
            return Page::Damaged;
        }
        Page::Leaf(Leaf { bytes, is_swapped: self.is_swapped, entries, at: 0 })
    }

    /// The whole of an item; nothing if it is too long or its pages are not there. `page` reads one.
    pub fn whole(
        self,
        item: Item<'_>,
        mut page: impl FnMut(u32) -> Option<Vec<u8>>,
    ) -> Option<Vec<u8>> {
        let (mut next, bytes) = match item {
            Item::Here(bytes) => return Some(bytes.to_vec()),
            Item::Elsewhere { page, bytes } => (page, bytes as usize),
        };
        if bytes > ITEM_BYTES_MAX {
            return None;
        }
        let mut whole = Vec::new();
        // Every page must add to it, so pages that lead in a circle end it.
        while whole.len() < bytes {
            let held = page(next)?;
            let (kind, _) = self.head(next, &held)?;
            let length = usize::from(short_at(&held, 22, self.is_swapped)?);
            let part = held.get(PAGE_HEAD_BYTES..PAGE_HEAD_BYTES + length)?;
            if kind != OVERFLOW || part.is_empty() || whole.len() + part.len() > bytes {
                return None;
            }
            whole.extend_from_slice(part);
            next = number_at(&held, 16, self.is_swapped)?;
        }
        Some(whole)
    }

    /// The kind of a page, and how many entries it says that it has.
    fn head(self, number: u32, bytes: &[u8]) -> Option<(u8, u16)> {
        let own = number_at(bytes, 8, self.is_swapped)?;
        let entries = short_at(bytes, 20, self.is_swapped)?;
        let kind = *bytes.get(25)?;
        (bytes.len() == self.page_bytes() && own == number && number > 0).then_some((kind, entries))
    }
}

impl<'p> Leaf<'p> {
    /// The item of that place: what kind it is, whether it was deleted, and where it lies.
    fn item(&self, place: usize) -> Option<(bool, Item<'p>)> {
        let at = usize::from(short_at(self.bytes, PAGE_HEAD_BYTES + place * 2, self.is_swapped)?);
        if at < PAGE_HEAD_BYTES + self.entries * 2 {
            return None;
        }
        let kind = *self.bytes.get(at + 2)?;
        let item = match kind & !DELETED {
            IN_PAGE => {
                let length = usize::from(short_at(self.bytes, at, self.is_swapped)?);
                Item::Here(self.bytes.get(at + 3..at + 3 + length)?)
            }
            ON_OTHER_PAGES => Item::Elsewhere {
                page: number_at(self.bytes, at + 4, self.is_swapped)?,
                bytes: number_at(self.bytes, at + 8, self.is_swapped)?,
            },
            _ => return None,
        };
        Some((kind & DELETED != 0, item))
    }
}

impl<'p> Iterator for Leaf<'p> {
    type Item = Result<(Item<'p>, Item<'p>), Broken>;

    /// The next pair that was not deleted.
    fn next(&mut self) -> Option<Self::Item> {
        while self.at + 1 < self.entries {
            let (key, value) = (self.item(self.at), self.item(self.at + 1));
            self.at += 2;
            match (key, value) {
                (Some((false, key)), Some((false, value))) => return Some(Ok((key, value))),
                (Some(_), Some(_)) => {}
                _ => return Some(Err(Broken)),
            }
        }
        None
    }
}

fn number_at(bytes: &[u8], at: usize, is_swapped: bool) -> Option<u32> {
    let four = *bytes.get(at..)?.first_chunk()?;
    Some(if is_swapped { u32::from_be_bytes(four) } else { u32::from_le_bytes(four) })
}

fn short_at(bytes: &[u8], at: usize, is_swapped: bool) -> Option<u16> {
    let two = *bytes.get(at..)?.first_chunk()?;
    Some(if is_swapped { u16::from_be_bytes(two) } else { u16::from_le_bytes(two) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: usize = 512;

    fn head(is_swapped: bool) -> Vec<u8> {
        let mut head = vec![0; PAGE];
        for (at, number) in [(12, MAGIC), (16, 9), (20, 512)] {
            let number = if is_swapped { number.to_be_bytes() } else { number.to_le_bytes() };
            head[at..at + 4].copy_from_slice(&number);
        }
        head[25] = META;
        head
    }

    fn page(number: u32, kind: u8) -> Vec<u8> {
        let mut page = vec![0; PAGE];
        page[8..12].copy_from_slice(&number.to_le_bytes());
        page[25] = kind;
        page
    }

    fn short(number: usize) -> [u8; 2] {
        u16::try_from(number).unwrap().to_le_bytes()
    }

    /// A leaf of these items: what is deleted begins with `!`.
    fn leaf(number: u32, items: &[&[u8]]) -> Vec<u8> {
        let mut page = page(number, LEAF);
        page[20..22].copy_from_slice(&short(items.len()));
        let mut at = PAGE;
        for (place, item) in items.iter().enumerate() {
            at -= item.len() + 3;
            page[at..at + 2].copy_from_slice(&short(item.len()));
            page[at + 2] = if item.first() == Some(&b'!') { IN_PAGE | DELETED } else { IN_PAGE };
            page[at + 3..at + 3 + item.len()].copy_from_slice(item);
            page[26 + place * 2..28 + place * 2].copy_from_slice(&short(at));
        }
        page
    }

    fn pairs(tree: Btree, number: u32, page: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
        let Page::Leaf(leaf) = tree.page(number, page) else { panic!("no leaf") };
        let text = |item| match item {
            Item::Here(bytes) => bytes.to_vec(),
            Item::Elsewhere { .. } => b"...".to_vec(),
        };
        leaf.filter_map(Result::ok).map(|(key, value)| (text(key), text(value))).collect()
    }

    #[test]
    fn heads_of_both_byte_orders_are_known_and_others_refused() {
        assert_eq!(Btree::parse(&head(false)).map(Btree::page_bytes), Ok(512));
        assert_eq!(Btree::parse(&head(true)).map(Btree::page_bytes), Ok(512));
        let changed = |at: usize, byte: u8| {
            let mut head = head(false);
            head[at] = byte;
            Btree::parse(&head)
        };
        assert_eq!(changed(12, 0x61), Err(Unreadable::Other), "a hash");
        assert_eq!(changed(16, 8), Err(Unreadable::Version(8)));
        assert_eq!(changed(20, 1), Err(Unreadable::Other), "pages of 513 bytes");
        assert_eq!(changed(24, 1), Err(Unreadable::Guarded));
        assert_eq!(changed(26, 1), Err(Unreadable::Guarded));
        for end in 0..36 {
            assert_eq!(Btree::parse(&head(false)[..end]), Err(Unreadable::Other), "{end} bytes");
        }
    }

    #[test]
    fn pairs_of_a_leaf_are_read_without_deleted_ones() {
        let tree = Btree::parse(&head(false)).unwrap();
        let page = leaf(3, &[b"a", b"1", b"b", b"!gone", b"c", b"", b"odd"]);
        let wanted = [(b"a".to_vec(), b"1".to_vec()), (b"c".to_vec(), Vec::new())];
        assert_eq!(pairs(tree, 3, &page), wanted);
        assert!(matches!(tree.page(4, &page), Page::Damaged), "another page");
        assert!(matches!(tree.page(3, &page[..511]), Page::Damaged), "cut");
        assert!(matches!(tree.page(9, &[0; PAGE]), Page::Other), "never written");
    }

    #[test]
    fn items_outside_their_page_are_told() {
        let tree = Btree::parse(&head(false)).unwrap();
        let mut page = leaf(3, &[b"a", b"1", b"b", b"2"]);
        page[26..28].copy_from_slice(&511_u16.to_le_bytes());
        assert_eq!(pairs(tree, 3, &page), [(b"b".to_vec(), b"2".to_vec())]);
        page[20..22].copy_from_slice(&u16::MAX.to_le_bytes());
        assert!(matches!(tree.page(3, &page), Page::Damaged), "more entries than it has room for");
    }

    #[test]
    fn long_items_are_put_together_and_circles_end() {
        let tree = Btree::parse(&head(false)).unwrap();
        let overflow = |number: u32, next: u32, text: &[u8]| {
            let mut page = page(number, OVERFLOW);
            page[16..20].copy_from_slice(&next.to_le_bytes());
            page[22..24].copy_from_slice(&short(text.len()));
            page[26..26 + text.len()].copy_from_slice(text);
            page
        };
        let pages = [overflow(1, 2, &[b'x'; 400]), overflow(2, 1, &[b'y'; 100])];
        let read = |bytes| {
            let item = Item::Elsewhere { page: 1, bytes };
            tree.whole(item, |number| pages.get(number as usize - 1).cloned())
        };
        assert_eq!(read(500), Some([[b'x'; 400].as_slice(), &[b'y'; 100]].concat()));
        assert_eq!(read(450), None, "more than it says");
        assert_eq!(read(65_537), None, "too long");
        let mut steps = 0;
        let item = Item::Elsewhere { page: 1, bytes: 60_000 };
        let round = tree.whole(item, |number| {
            steps += 1;
            pages.get(number as usize - 1).cloned()
        });
        assert!(round.is_some() && steps < 300, "a circle ends: {steps} pages");
    }
}
