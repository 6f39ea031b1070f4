//! Requests as Postfix 3.7 sends them at RCPT, in four loads.
//!
//! All requests of a form are equally long, so the next one is made by writing over a few fields of
//! the last: whoever measures must not be the limit.

/// Triplets that come back.
const HOT: u64 = 10_000;
/// Recipients of spam, the first far more often than the last.
const SPAMMED: u64 = 2_000;

/// Which triplets are asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One of ten thousand that the server knows.
    Known,
    /// One that nobody has seen.
    New,
    /// Nine in ten are drones that nobody has seen, the tenth is known.
    Mixed,
    /// New ones, apart from all other loads: to fill a store.
    Fill,
}

impl Kind {
    /// The name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Known => "known",
            Self::New => "new",
            Self::Mixed => "90/10",
            Self::Fill => "fill",
        }
    }
}

/// A bijection that spreads numbers as hashes are.
pub fn hash(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A request with its fields as `<` and a letter, followed by dots up to the field's width. Octets of
/// addresses have three digits; senders are of letters, since greylisters fold digits.
const FORM: &str = "request=smtpd_access_policy\nprotocol_state=RCPT\nprotocol_name=ESMTP\n\
    client_address=1<a.1<b.1<c.1<d\nclient_name=NAME\nclient_port=<p...\n\
    reverse_client_name=NAME\nserver_address=192.0.2.25\nserver_port=25\n\
    helo_name=<h....example.net\nsender=<s........@<h....example.net\n\
    recipient=user<r...@dom<o.example.org\nrecipient_count=0\nqueue_id=\n\
    instance=<i...........2f4c.0\nsize=<z...\netrn_domain=\nstress=\nsasl_method=\n\
    sasl_username=\nsasl_sender=\nccert_subject=\nccert_issuer=\nccert_fingerprint=\n\
    ccert_pubkey_fingerprint=\nencryption_protocol=TLSv1.3\n\
    encryption_cipher=TLS_AES_256_GCM_SHA384\nencryption_keysize=256\npolicy_context=\n\
    compatibility_level=3.6\nmail_version=3.7.11\n\n";

/// The fields of [`FORM`] in the order of their letters, and how wide they are.
const FIELDS: [(u8, usize); 11] = [
    (b'a', 2),
    (b'b', 2),
    (b'c', 2),
    (b'd', 2),
    (b'p', 5),
    (b'h', 5),
    (b's', 10),
    (b'r', 5),
    (b'o', 2),
    (b'i', 12),
    (b'z', 5),
];

/// A request, and where its fields are.
#[derive(Debug)]
struct Form {
    bytes: Vec<u8>,
    fields: Vec<(u8, usize, usize)>,
}

impl Form {
    fn new(name: &str) -> Self {
        let mut bytes = FORM.replace("NAME", name).into_bytes();
        let mut fields = Vec::new();
        for at in 0..bytes.len() {
            let letter = bytes.get(at + 1).copied().unwrap_or_default();
            let field = FIELDS.iter().find(|(name, _)| *name == letter);
            if bytes.get(at) == Some(&b'<')
                && let Some((_, width)) = field
            {
                fields.push((letter, at, *width));
            }
        }
        for (_, at, width) in &fields {
            bytes.get_mut(*at..at + width).unwrap_or_default().fill(b'0');
        }
        Self { bytes, fields }
    }

    fn fill(&mut self, value_of: impl Fn(u8) -> u64) {
        for (letter, at, width) in &self.fields {
            let mut value = value_of(*letter);
            let (base, first) = if matches!(letter, b'h' | b's') { (26, b'a') } else { (10, b'0') };
            for place in self.bytes.get_mut(*at..at + width).unwrap_or_default().iter_mut().rev() {
                *place = first + u8::try_from(value % base).unwrap_or_default();
                value /= base;
            }
        }
    }
}

/// Makes the requests of a load, one after the other.
#[derive(Debug)]
pub struct Requests {
    kind: Kind,
    seed: u64,
    next: u64,
    named: Form,
    unnamed: Form,
}

impl Requests {
    /// A load. Another seed gives other triplets, but for the known ones.
    pub fn new(kind: Kind, seed: u64) -> Self {
        let (named, unnamed) = (Form::new("mx-<d.<h....example.net"), Form::new("unknown"));
        Self { kind, seed, next: 0, named, unnamed }
    }

    /// The next request.
    pub fn make(&mut self) -> &[u8] {
        let number = self.next;
        self.next += 1;
        let is_known = match self.kind {
            Kind::Known => true,
            Kind::New | Kind::Fill => false,
            Kind::Mixed => number % 10 == 9,
        };
        let salt = self.seed << 40 | u64::from(self.kind == Kind::Fill) << 63;
        let which = if is_known { u64::MAX - hash(number) % HOT } else { salt ^ number };
        let spread = hash(which);
        let is_spam = self.kind == Kind::Mixed && !is_known;
        let recipient = if is_spam { zipf(spread) } else { spread % 20_000 };
        let serial = hash(number ^ self.seed);
        let form =
            if is_known || spread.is_multiple_of(4) { &mut self.named } else { &mut self.unnamed };
        form.fill(|letter| match letter {
            b'a' => spread >> 8,
            b'b' => spread >> 16,
            b'c' => spread >> 24,
            b'd' => spread >> 32,
            b'p' => 10_000 + serial % 50_000,
            b'h' => spread % 9_000,
            b's' => spread >> 4,
            b'r' => recipient,
            b'o' => recipient % 40,
            b'i' => serial,
            _ => 10_000 + spread % 60_000,
        });
        &form.bytes
    }
}

/// A recipient by Zipf's law, roughly: the logarithm of its place is spread evenly.
fn zipf(spread: u64) -> u64 {
    let share = (spread >> 11) as f64 / (1_u64 << 53) as f64;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "1 to 2000")]
    let place = (SPAMMED as f64).powf(share) as u64;
    place
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_whole_and_new_ones_differ() {
        let mut requests = Requests::new(Kind::New, 3);
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..1_000 {
            let text = String::from_utf8(requests.make().to_vec()).unwrap();
            assert!(text.ends_with("\n\n") && !text.contains('<'), "{text}");
            assert!(text.trim_end().lines().all(|line| line.contains('=')), "{text}");
            let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
            value("client_address=").unwrap().parse::<std::net::Ipv4Addr>().unwrap();
            seen.insert(format!("{:?} {:?}", value("client_address="), value("sender=")));
        }
        assert_eq!(seen.len(), 1_000);
        let known = |seed| Requests::new(Kind::Known, seed).make().to_vec();
        let triplet = |request: Vec<u8>| request.get(..130).unwrap().to_vec();
        assert_eq!(triplet(known(1)), triplet(known(2)));
    }
}
