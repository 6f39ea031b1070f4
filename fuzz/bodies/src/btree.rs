//! Files of Berkeley DB of arbitrary bytes: no page gives more than it has room for, and what is put
//! together of several pages is as long as it says, with a bounded number of pages read.

use mpp_wire::btree::{Btree, ITEM_BYTES_MAX, Item, Page};

/// The bytes are a file.
pub fn btree(bytes: &[u8]) {
    let Ok(tree) = Btree::parse(bytes) else { return };
    let size = tree.page_bytes();
    for (number, page) in (0_u32..).zip(bytes.chunks(size)) {
        let Page::Leaf(leaf) = tree.page(number, page) else { continue };
        let mut pairs = 0;
        for pair in leaf {
            pairs += 1;
            let Ok((key, value)) = pair else { continue };
            for item in [key, value] {
                whole(tree, item, bytes);
            }
        }
        assert!(pairs * 4 <= size, "{pairs} pairs in a page of {size} bytes");
    }
}

fn whole(tree: Btree, item: Item<'_>, file: &[u8]) {
    let size = tree.page_bytes();
    let mut read = 0;
    let whole = tree.whole(item, |number| {
        read += 1;
        let start = usize::try_from(number).ok()?.checked_mul(size)?;
        file.get(start..start.checked_add(size)?).map(<[u8]>::to_vec)
    });
    assert!(read <= ITEM_BYTES_MAX + 1, "{read} pages were read for one item");
    match item {
        Item::Here(bytes) => {
            assert!(bytes.len() < size, "an item longer than its page");
            assert!(whole.as_deref() == Some(bytes), "what stands there is there");
        }
        Item::Elsewhere { bytes, .. } => {
            let length = whole.map_or(bytes as usize, |whole| whole.len().min(ITEM_BYTES_MAX));
            assert!(length == bytes as usize, "an item as long as it says");
        }
    }
}
