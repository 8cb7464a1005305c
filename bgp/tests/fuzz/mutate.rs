//! Deterministic mutations: what libFuzzer does to a corpus, without its feedback.

/// A stream of numbers (SplitMix64).
pub(crate) struct Stream(pub(crate) u64);

impl Stream {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `bound`; 0 for a bound of 0.
    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % (bound.max(1) as u64)).unwrap_or(0)
    }

    fn octet(&mut self) -> u8 {
        self.next() as u8
    }
}

/// Octets at which codecs tend to change their mind.
const EDGES: [u8; 16] = [0, 1, 2, 3, 4, 7, 8, 15, 16, 31, 32, 33, 127, 128, 129, 255];

/// Longer inputs say nothing that shorter ones do not.
const LONGEST: usize = 1024;

/// Changes `input` in up to four ways; `other` is what it may be spliced with.
pub(crate) fn mutate(input: &mut Vec<u8>, other: &[u8], stream: &mut Stream) {
    for _ in 0..=stream.below(4) {
        once(input, other, stream);
    }
    input.truncate(LONGEST);
}

fn once(input: &mut Vec<u8>, other: &[u8], stream: &mut Stream) {
    let at = stream.below(input.len());
    let end = (at + 1 + stream.below(8)).min(input.len());
    match stream.below(9) {
        0 => {
            if let Some(octet) = input.get_mut(at) {
                *octet ^= 1 << stream.below(8);
            }
        }
        1 => {
            let edge = EDGES[stream.below(EDGES.len())];
            if let Some(octet) = input.get_mut(at) {
                *octet = edge;
            }
        }
        2 => {
            if let Some(octet) = input.get_mut(at) {
                *octet = stream.octet();
            }
        }
        // Lengths off by a little.
        3 => {
            let step = 1 + (stream.octet() & 3);
            if let Some(octet) = input.get_mut(at) {
                *octet = match stream.below(2) {
                    0 => octet.wrapping_add(step),
                    _ => octet.wrapping_sub(step),
                };
            }
        }
        4 => input.truncate(at),
        5 => drop(input.drain(at..end)),
        6 => {
            let piece = input.get(at..end).unwrap_or_default().to_vec();
            drop(input.splice(at..at, piece));
        }
        7 => {
            let fresh: Vec<u8> = (at..end).map(|_| stream.octet()).collect();
            drop(input.splice(at..at, fresh));
        }
        _ => {
            let from = stream.below(other.len());
            let tail = other.get(from..).unwrap_or_default();
            input.truncate(at);
            input.extend_from_slice(tail);
        }
    }
}
