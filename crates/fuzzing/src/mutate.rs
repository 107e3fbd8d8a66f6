//! Changes to bytes, the same for the same seed: what a fuzzer does, without a fuzzer.

use serde_json::{Map, Value};

/// Random numbers that are the same each time (xorshift64*).
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// Any seed will do.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn roll(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number below `limit`, which is not 0.
    pub fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.roll() >> 33).unwrap_or(0) % limit
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

/// `bytes`, changed: as a document if they are JSON, or as what they are.
pub fn change(bytes: &[u8], other: &[u8], dice: &mut Dice) -> Vec<u8> {
    if dice.below(3) > 0
        && let Ok(mut document) = serde_json::from_slice::<Value>(bytes)
    {
        for _ in 0..=dice.below(3) {
            change_value(&mut document, dice);
        }
        return document.to_string().into_bytes();
    }
    let mut changed = bytes.to_vec();
    for _ in 0..=dice.below(4) {
        change_bytes(&mut changed, other, dice);
    }
    changed
}

/// Bytes that mean something to many readers.
const BYTES: [u8; 12] = [
    0, 1, 0x7f, 0x80, 0xff, b'/', b'.', b'"', b'\\', b'{', b'=', b',',
];

fn change_bytes(bytes: &mut Vec<u8>, other: &[u8], dice: &mut Dice) {
    let place = dice.below(bytes.len() + 1);
    let length = dice.below(64).min(bytes.len() - place);
    match dice.below(7) {
        0 if place < bytes.len() => bytes[place] ^= 1 << dice.below(8),
        1 if place < bytes.len() => bytes[place] = *dice.pick(&BYTES),
        2 => bytes.insert(place, *dice.pick(&BYTES)),
        3 => drop(bytes.drain(place..place + length)),
        4 => bytes.truncate(place),
        5 => {
            let copy = bytes[place..place + length].to_vec();
            let to = dice.below(bytes.len() + 1);
            bytes.splice(to..to, copy);
        }
        _ => {
            let from = dice.below(other.len() + 1);
            let length = dice.below(512).min(other.len() - from);
            bytes.splice(place..place, other[from..from + length].iter().copied());
        }
    }
}

/// Values at the edges of what readers expect.
fn edge(dice: &mut Dice) -> Value {
    let texts = [
        "",
        "/",
        "..",
        "a/../../b",
        "\0",
        "é",
        "SCMP_ACT_ERRNO",
        "rbind",
        "-1",
        "0-4294967295",
    ];
    match dice.below(12) {
        0 => Value::Null,
        1 => Value::Bool(dice.below(2) == 0),
        2 => Value::from(-1),
        3 => Value::from(u64::MAX),
        4 => Value::from(i64::MIN),
        5 => Value::from(1e300),
        6 => Value::from(dice.below(100_000)),
        7 => Value::Array(Vec::new()),
        8 => Value::Object(Map::new()),
        9 => Value::from("x".repeat(dice.below(10_000))),
        _ => Value::from(*dice.pick(&texts)),
    }
}

/// Changes something in a document: somewhere in it, or itself.
fn change_value(value: &mut Value, dice: &mut Dice) {
    let deeper = dice.below(8) > 0;
    match value {
        Value::Object(members) if deeper && !members.is_empty() => {
            let names: Vec<String> = members.keys().cloned().collect();
            let name = dice.pick(&names);
            match dice.below(12) {
                0 => drop(members.remove(name)),
                1 => drop(members.insert(name.clone() + "x", edge(dice))),
                _ => {
                    if let Some(member) = members.get_mut(name) {
                        change_value(member, dice);
                    }
                }
            }
        }
        Value::Array(items) if deeper && !items.is_empty() => {
            let place = dice.below(items.len());
            match dice.below(8) {
                0 => drop(items.remove(place)),
                1 => {
                    let copy = items[place].clone();
                    items.push(copy);
                }
                _ => change_value(&mut items[place], dice),
            }
        }
        other => *other = edge(dice),
    }
}
