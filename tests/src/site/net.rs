//! The rest of the network: hosts, and the providers they live at.

use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::rc::Rc;

use super::chance::Chance;

/// A host that sends mail, as Postfix would see it.
#[derive(Clone, Debug)]
pub struct Host {
    /// Its address.
    pub address: IpAddr,
    /// Its name if that name leads back to the address, else `unknown`.
    pub name: Rc<str>,
    /// The name that the address leads to, else `unknown`.
    pub reverse: Rc<str>,
    /// What it calls itself.
    pub helo: Rc<str>,
    /// Whether it speaks TLS.
    pub tls: bool,
}

/// An access provider with many subscribers on changing addresses.
#[derive(Debug)]
struct Provider {
    name: String,
    /// First two bytes of its addresses.
    blocks: Vec<(u8, u8)>,
    naming: Naming,
}

#[derive(Clone, Copy, Debug)]
enum Naming {
    /// No names at all.
    None,
    /// Names that do not lead back.
    Unconfirmed,
    /// `dyn-1-2-3-4.pool.isp.example`, leading back.
    Dynamic,
    /// A name of hex digits, leading back.
    Hex,
}

/// Gives out addresses.
#[derive(Debug)]
pub struct Net {
    providers: Vec<Provider>,
    mobile: Vec<usize>,
    next_block: Cell<u32>,
    next_v6: Cell<u16>,
}

fn text(value: impl Into<String>) -> Rc<str> {
    Rc::from(value.into())
}

impl Net {
    /// A network for a seed.
    pub fn new(chance: &mut Chance) -> Self {
        let providers: Vec<Provider> = (0..70_u8)
            .map(|number| Provider {
                name: format!("{}{number}.example", chance.word(2)),
                blocks: (0..chance.whole(2, 14))
                    .map(|_| (60 + number, chance.byte(0, 255)))
                    .collect(),
                naming: match chance.weighted(&[0.40, 0.15, 0.33, 0.12]) {
                    0 => Naming::None,
                    1 => Naming::Unconfirmed,
                    2 => Naming::Dynamic,
                    _ => Naming::Hex,
                },
            })
            .collect();
        let mobile = (0..6).map(|_| chance.below(70)).collect();
        Self { providers, mobile, next_block: Cell::new(0), next_v6: Cell::new(1) }
    }

    /// The name of a provider.
    pub fn provider(&self, chance: &mut Chance) -> &str {
        &chance.pick(&self.providers).name
    }

    /// Somebody's machine at home.
    pub fn home(&self, chance: &mut Chance) -> Host {
        let provider = chance.popular(&self.providers);
        Self::subscriber(provider, chance)
    }

    /// A phone: another address each time, of a few providers.
    pub fn mobile(&self, chance: &mut Chance) -> Host {
        let provider = &self.providers[*chance.pick(&self.mobile)];
        Self::subscriber(provider, chance)
    }

    fn subscriber(provider: &Provider, chance: &mut Chance) -> Host {
        let (a, b) = *chance.pick(&provider.blocks);
        let (c, d) = (chance.byte(0, 255), chance.byte(1, 254));
        let dynamic = || format!("dyn-{a}-{b}-{c}-{d}.pool.{}", provider.name);
        let (name, reverse) = match provider.naming {
            Naming::None => (text("unknown"), text("unknown")),
            Naming::Unconfirmed => (text("unknown"), text(dynamic())),
            Naming::Dynamic => (text(dynamic()), text(dynamic())),
            Naming::Hex => {
                let hex = format!("p{a:02x}{b:02x}{c:02x}{d:02x}.dip.{}", provider.name);
                (text(hex.clone()), text(hex))
            }
        };
        let helo = match chance.below(6) {
            0 => text(format!("{}-PC", chance.word(3))),
            1 => text(format!("[{a}.{b}.{c}.{d}]")),
            2 => text(chance.jumble(8)),
            3 => text("localhost"),
            4 if &*reverse != "unknown" => Rc::clone(&reverse),
            _ => text(format!("{}.example", chance.word(3))),
        };
        Host {
            address: Ipv4Addr::new(a, b, c, d).into(),
            name,
            reverse,
            helo,
            tls: chance.hit(0.1),
        }
    }

    /// A /24 that nobody else has.
    pub fn block(&self) -> [u8; 3] {
        let number = self.next_block.get();
        self.next_block.set(number + 1);
        [140 + (number >> 16) as u8, (number >> 8) as u8, number as u8]
    }

    /// A server with a proper name, at an address of a block.
    pub fn server(block: [u8; 3], last: u8, name: &str, chance: &mut Chance) -> Host {
        let [a, b, c] = block;
        Host {
            address: Ipv4Addr::new(a, b, c, last).into(),
            name: text(name),
            reverse: text(name),
            helo: text(name),
            tls: chance.hit(0.85),
        }
    }

    /// A server that speaks IPv6.
    pub fn server_v6(&self, name: &str) -> Host {
        let number = self.next_v6.get();
        self.next_v6.set(number + 1);
        let address = Ipv6Addr::new(0x2001, 0xdb8, number, 0x17, 0, 0, 0, 0x25);
        Host {
            address: address.into(),
            name: text(name),
            reverse: text(name),
            helo: text(name),
            tls: true,
        }
    }

    /// Takes the name away from a host: no reverse name, or one that does not lead back.
    pub fn unname(host: &mut Host, chance: &mut Chance) {
        host.name = text("unknown");
        if chance.hit(0.6) {
            host.reverse = text("unknown");
        }
    }
}
