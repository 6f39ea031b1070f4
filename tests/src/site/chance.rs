//! Seeded chance: everything random in a simulated month comes from here.
//!
//! Each sender, and each mail, has a generator of its own, forked by name. So what mail comes does
//! not depend on how earlier mail was answered, and two configurations are judged by the same
//! month.

/// A small seeded generator (`SplitMix64`). Not for secrets.
#[derive(Clone, Debug)]
pub struct Chance(u64);

const STEP: u64 = 0x9E37_79B9_7F4A_7C15;

fn mix(value: u64) -> u64 {
    let mut z = value;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

impl Chance {
    /// A generator for a seed.
    pub fn new(seed: u64) -> Self {
        Self(mix(seed.wrapping_add(STEP)))
    }

    /// Another generator, whose numbers do not depend on how many this one gives.
    #[must_use]
    pub fn fork(&self, name: &str, number: u64) -> Self {
        let mut state = self.0 ^ mix(number.wrapping_mul(STEP) ^ 0x5EED);
        for byte in name.bytes() {
            state = mix(state.wrapping_add(STEP) ^ u64::from(byte));
        }
        Self(state)
    }

    /// Another generator, a new one each time.
    #[must_use]
    pub fn split(&mut self) -> Self {
        Self(mix(self.number() ^ 0x5B17))
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        mix(self.0)
    }

    /// From 0 up to, not including, 1.
    pub fn unit(&mut self) -> f64 {
        (self.number() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// A whole number below `end`; 0 where `end` is 0.
    pub fn below(&mut self, end: usize) -> usize {
        ((self.unit() * end as f64) as usize).min(end.saturating_sub(1))
    }

    /// A whole number from `first` to `last`.
    pub fn whole(&mut self, first: usize, last: usize) -> usize {
        first + self.below(last + 1 - first)
    }

    /// A byte from `first` to `last`.
    pub fn byte(&mut self, first: u8, last: u8) -> u8 {
        self.whole(first.into(), last.into()) as u8
    }

    /// True with a probability.
    pub fn hit(&mut self, probability: f64) -> bool {
        self.unit() < probability
    }

    /// Evenly between two bounds.
    pub fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    /// A waiting time with a mean, of events that do not know of each other.
    pub fn wait(&mut self, mean: f64) -> f64 {
        -mean * (1.0 - self.unit()).ln()
    }

    /// Around a median; two thirds lie within a factor of `e^spread` of it.
    pub fn around(&mut self, median: f64, spread: f64) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        let normal = radius * (std::f64::consts::TAU * self.unit()).cos();
        median * (spread * normal).exp()
    }

    /// 1, 2, 3, ... with a mean, never above `most`.
    pub fn few(&mut self, mean: f64, most: usize) -> usize {
        let more = 1.0 - 1.0 / mean.max(1.0);
        let mut count = 1;
        while count < most && self.hit(more) {
            count += 1;
        }
        count
    }

    /// A whole number with a mean that need not be whole.
    pub fn about(&mut self, mean: f64) -> usize {
        let whole = mean.max(0.0).floor();
        whole as usize + usize::from(self.hit(mean - whole))
    }

    /// One of a list.
    ///
    /// # Panics
    /// Where the list is empty.
    pub fn pick<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len())]
    }

    /// One of a list; the first ones are more popular (a rank has the weight 1/rank, about).
    ///
    /// # Panics
    /// Where the list is empty.
    pub fn popular<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        let rank = ((list.len() as f64 + 1.0).powf(self.unit()) - 1.0) as usize;
        &list[rank.min(list.len() - 1)]
    }

    /// The place of one weight in a list of weights.
    pub fn weighted(&mut self, weights: &[f64]) -> usize {
        let mut left = self.unit() * weights.iter().sum::<f64>();
        for (place, weight) in weights.iter().enumerate() {
            left -= weight;
            if left < 0.0 {
                return place;
            }
        }
        weights.len().saturating_sub(1)
    }

    /// A made-up word that can be read out.
    pub fn word(&mut self, syllables: usize) -> String {
        const FIRST: &[u8] = b"bcdfghjklmnprstvwz";
        const VOWELS: &[u8] = b"aeiou";
        let mut word = String::new();
        for _ in 0..syllables {
            word.push(char::from(*self.pick(FIRST)));
            word.push(char::from(*self.pick(VOWELS)));
        }
        word
    }

    /// Letters and digits without sense.
    pub fn jumble(&mut self, length: usize) -> String {
        const LETTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";
        (0..length).map(|_| char::from(*self.pick(LETTERS))).collect()
    }

    /// Digits.
    pub fn digits(&mut self, length: usize) -> String {
        (0..length).map(|_| char::from(self.byte(b'0', b'9'))).collect()
    }
}
