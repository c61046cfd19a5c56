//! The ledger: how every trial ended, in three bits each. It only grows: an index that is in it stays. An outcome that
//! was taken from a pod's end alone gives way to the stored one.

use std::{fmt::Write as _, iter};

use base64::{Engine as _, engine::general_purpose::STANDARD};

use crate::{limits, outcome::Outcome, status::Ledger};

/// The outcomes of a sweep's trials by trial index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcomes {
    /// Trial `i` has the bits from `3 * i` on, the lowest first; bit `b` is bit `b % 8` of byte `b / 8`.
    packed: Vec<u8>,
    trials: u32,
}

/// Why a ledger cannot be read or written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    /// The text is not base64.
    #[error("status.ledger.outcomes is not base64: {0}")]
    NotBase64(String),
    /// The text is for another number of trials.
    #[error("status.ledger.outcomes has {found} bytes, and {trials} trials need {needed}")]
    Length {
        /// Its bytes.
        found: usize,
        /// The bytes that were expected.
        needed: usize,
        /// The trials of the design.
        trials: u32,
    },
    /// A number that stands for no outcome.
    #[error("status.ledger.outcomes has {code} for trial {index}, which is no outcome")]
    Code {
        /// The trial, or the first index beyond the last.
        index: u32,
        /// The number.
        code: u8,
    },
    /// An index beyond the design.
    #[error("trial {index} is beyond the design's {trials} trials")]
    Beyond {
        /// The index.
        index: u32,
        /// The trials of the design, before exclusion.
        trials: u32,
    },
    /// An outcome that would replace another that stays.
    #[error("trial {index} is recorded as {recorded} and cannot become {new}")]
    Recorded {
        /// The index.
        index: u32,
        /// The outcome in the ledger.
        recorded: Outcome,
        /// The outcome that was to be written.
        new: Outcome,
    },
}

const BITS: usize = 3;

const fn bytes_for(trials: u32) -> usize {
    (trials as usize * BITS).div_ceil(8)
}

impl Outcomes {
    /// A ledger of this number of trials (before exclusion), none of which has ended.
    #[must_use]
    pub fn new(trials: u32) -> Self {
        Self {
            packed: vec![0; bytes_for(trials)],
            trials,
        }
    }

    /// Reads a ledger of this number of trials; an empty text is an empty ledger.
    ///
    /// # Errors
    /// Where the text is not base64, of another length, or has a number that is no outcome.
    pub fn decode(text: &str, trials: u32) -> Result<Self, LedgerError> {
        if text.is_empty() {
            return Ok(Self::new(trials));
        }
        let packed = STANDARD
            .decode(text)
            .map_err(|error| LedgerError::NotBase64(error.to_string()))?;
        let needed = bytes_for(trials);
        if packed.len() != needed {
            return Err(LedgerError::Length {
                found: packed.len(),
                needed,
                trials,
            });
        }
        let ledger = Self { packed, trials };
        // The bits that are left over in the last byte have to be zero, too.
        let slots = u32::try_from((needed * 8).div_ceil(BITS)).unwrap_or(u32::MAX);
        let bad = |&index: &u32| {
            let code = ledger.code(index);
            code != 0 && (index >= trials || Outcome::from_code(code).is_none())
        };
        match (0..slots).find(bad) {
            Some(index) => Err(LedgerError::Code {
                index,
                code: ledger.code(index),
            }),
            None => Ok(ledger),
        }
    }

    /// The ledger as base64.
    #[must_use]
    pub fn encode(&self) -> String {
        STANDARD.encode(&self.packed)
    }

    /// The ledger as the status has it.
    #[must_use]
    pub fn status(&self) -> Ledger {
        Ledger {
            outcomes: self.encode(),
            failed: self.failed(),
            decided: 0,
        }
    }

    /// The trials of the design, before exclusion.
    #[must_use]
    pub const fn trials(&self) -> u32 {
        self.trials
    }

    /// How a trial ended; none where it has not, or is beyond the design.
    #[must_use]
    pub fn get(&self, index: u32) -> Option<Outcome> {
        if index >= self.trials {
            None
        } else {
            Outcome::from_code(self.code(index))
        }
    }

    /// Records how a trial ended; says whether that was news.
    ///
    /// # Errors
    /// Where the index is beyond the design, or another outcome than `Failed` is recorded for it already.
    pub fn record(&mut self, index: u32, outcome: Outcome) -> Result<bool, LedgerError> {
        self.replace(index, outcome, |recorded| recorded == Outcome::Failed)
    }

    /// Records what the store says of a trial; says whether that was news. It outranks how a pod ended.
    ///
    /// # Errors
    /// Where the index is beyond the design, or what is recorded can only have come from a record as well.
    pub fn correct(&mut self, index: u32, outcome: Outcome) -> Result<bool, LedgerError> {
        self.replace(index, outcome, Outcome::gives_way)
    }

    fn replace(
        &mut self,
        index: u32,
        outcome: Outcome,
        gives_way: impl Fn(Outcome) -> bool,
    ) -> Result<bool, LedgerError> {
        if index >= self.trials {
            return Err(LedgerError::Beyond {
                index,
                trials: self.trials,
            });
        }
        match self.get(index) {
            Some(recorded) if recorded == outcome => return Ok(false),
            Some(recorded) if !gives_way(recorded) => {
                return Err(LedgerError::Recorded {
                    index,
                    recorded,
                    new: outcome,
                });
            }
            _ => {}
        }
        let code = outcome.code();
        for bit in 0..BITS {
            let place = index as usize * BITS + bit;
            let mask = 1 << (place % 8);
            if code >> bit & 1 == 1 {
                self.packed[place / 8] |= mask;
            } else {
                self.packed[place / 8] &= !mask;
            }
        }
        Ok(true)
    }

    /// The trials that have ended, in the order of the index.
    pub fn iter(&self) -> impl Iterator<Item = (u32, Outcome)> {
        (0..self.trials).filter_map(|index| Some((index, self.get(index)?)))
    }

    /// How many trials ended so.
    #[must_use]
    pub fn count(&self, outcome: Outcome) -> u32 {
        self.iter()
            .map(|(_, recorded)| u32::from(recorded == outcome))
            .sum()
    }

    /// The failed trials as `512,600-603`; where that is longer than 1 KiB it is cut and ends in `,...`.
    #[must_use]
    pub fn failed(&self) -> String {
        const MOST: usize = 1_024;
        const CUT: &str = ",...";
        let mut text = String::new();
        let mut indices = self
            .iter()
            .filter(|&(_, outcome)| outcome == Outcome::Failed)
            .map(|(index, _)| index);
        let mut next = indices.next();
        while let Some(first) = next {
            let mut last = first;
            next = indices.next();
            while next == Some(last + 1) {
                last += 1;
                next = indices.next();
            }
            let mut interval = if text.is_empty() {
                String::new()
            } else {
                ",".into()
            };
            // Writing to a string cannot fail.
            let _ = if first == last {
                write!(interval, "{first}")
            } else {
                write!(interval, "{first}-{last}")
            };
            let reserve = if next.is_some() { CUT.len() } else { 0 };
            if text.len() + interval.len() + reserve > MOST {
                text.push_str(CUT);
                break;
            }
            text.push_str(&interval);
        }
        text
    }

    fn code(&self, index: u32) -> u8 {
        let bit = |bit: usize| {
            let place = index as usize * BITS + bit;
            self.packed
                .get(place / 8)
                .is_some_and(|byte| byte >> (place % 8) & 1 == 1)
        };
        iter::zip(0..BITS, [1, 2, 4])
            .map(|(place, value)| if bit(place) { value } else { 0 })
            .sum()
    }
}

/// The longest ledger text: 3 bits for each trial of the largest design, in base64.
pub const MAX_TEXT: usize = bytes_for(limits::TRIALS as u32).div_ceil(3) * 4;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn any_outcome() -> impl Strategy<Value = Outcome> {
        (0..Outcome::ALL.len()).prop_map(|index| Outcome::ALL[index])
    }

    proptest! {
        #[test]
        fn what_is_recorded_is_read_back(
            trials in 1_u32..200,
            records in prop::collection::vec((0_u32..200, any_outcome()), 0..300),
        ) {
            let mut ledger = Outcomes::new(trials);
            let mut expected: BTreeMap<u32, Outcome> = BTreeMap::new();
            for (index, outcome) in records {
                let before = expected.get(&index).copied();
                let result = ledger.record(index, outcome);
                if index >= trials {
                    prop_assert_eq!(result, Err(LedgerError::Beyond { index, trials }));
                } else if before.is_none_or(|before| before == outcome || before == Outcome::Failed) {
                    prop_assert_eq!(result, Ok(before != Some(outcome)));
                    expected.insert(index, outcome);
                } else {
                    let refused = matches!(result, Err(LedgerError::Recorded { .. }));
                    prop_assert!(refused);
                }
            }
            let read = Outcomes::decode(&ledger.encode(), trials).expect("our own text");
            prop_assert_eq!(&read, &ledger);
            prop_assert_eq!(read.iter().collect::<BTreeMap<_, _>>(), expected.clone());
            let failed = expected.values().filter(|&&outcome| outcome == Outcome::Failed).count();
            prop_assert_eq!(ledger.count(Outcome::Failed) as usize, failed);
        }

        #[test]
        fn the_failed_are_listed_as_intervals(indices in prop::collection::btree_set(0_u32..400, 0..120)) {
            let mut ledger = Outcomes::new(400);
            for &index in &indices {
                ledger.record(index, Outcome::Failed).expect("within the design");
            }
            let text = ledger.failed();
            prop_assert!(text.len() <= 1_024);
            let mut listed = Vec::new();
            for part in text.split(',').filter(|part| !part.is_empty() && *part != "...") {
                let (first, last) = part.split_once('-').unwrap_or((part, part));
                listed.extend(first.parse::<u32>().expect("a number")..=last.parse().expect("a number"));
            }
            let expected: Vec<u32> = indices.into_iter().collect();
            prop_assert_eq!(&listed[..], &expected[..listed.len()]);
            prop_assert!(text.ends_with("...") || listed.len() == expected.len());
        }

        #[test]
        fn nothing_that_is_read_panics(text in ".{0,40}", trials in 0_u32..64) {
            let _ = Outcomes::decode(&text, trials);
        }
    }

    #[test]
    fn what_is_stored_outranks_how_a_pod_ended() {
        for recorded in Outcome::ALL {
            for stored in Outcome::ALL {
                let mut ledger = Outcomes::new(1);
                ledger.record(0, recorded).expect("new");
                let result = ledger.correct(0, stored);
                let comes_from_a_record =
                    matches!(recorded, Outcome::Succeeded | Outcome::Unsupported);
                if comes_from_a_record && stored != recorded {
                    assert!(matches!(result, Err(LedgerError::Recorded { .. })));
                    assert_eq!(ledger.get(0), Some(recorded));
                } else {
                    assert_eq!(result, Ok(stored != recorded));
                    assert_eq!(ledger.get(0), Some(stored));
                }
            }
        }
        assert!(Outcomes::new(1).correct(1, Outcome::Succeeded).is_err());
    }

    #[test]
    fn the_layout_is_a_promise() {
        let mut ledger = Outcomes::new(4);
        ledger.record(0, Outcome::Succeeded).expect("new");
        ledger.record(1, Outcome::Failed).expect("new");
        ledger.record(3, Outcome::TimedOut).expect("new");
        // Bits from the lowest: 100 101 00|0 001 ....
        assert_eq!(ledger.packed, [0b0010_1001, 0b0000_1000]);
        assert_eq!(ledger.encode(), "KQg=");
        assert_eq!(ledger.failed(), "1");
    }

    #[test]
    fn what_is_no_ledger_is_refused() {
        let refuse = |text: &str, trials| {
            Outcomes::decode(text, trials)
                .expect_err("refused")
                .to_string()
        };
        assert!(refuse("not base64!", 4).starts_with("status.ledger.outcomes is not base64: "));
        assert_eq!(
            refuse("KQg=", 40),
            "status.ledger.outcomes has 2 bytes, and 40 trials need 15"
        );
        assert_eq!(
            refuse("Bg==", 2),
            "status.ledger.outcomes has 6 for trial 0, which is no outcome"
        );
        // The bits beyond the last trial are not empty.
        assert!(
            refuse("KYg=", 4).contains("for trial 5") || refuse("KYg=", 4).contains("for trial 4")
        );
        assert_eq!(Outcomes::decode("", 9), Ok(Outcomes::new(9)));
    }

    #[test]
    fn the_largest_design_fits_the_status() {
        let mut ledger = Outcomes::new(50_000);
        for index in (0..50_000).step_by(2) {
            ledger.record(index, Outcome::Failed).expect("new");
        }
        let Ledger {
            outcomes, failed, ..
        } = ledger.status();
        assert_eq!(outcomes.len(), MAX_TEXT);
        assert_eq!(MAX_TEXT, 25_000);
        assert!(
            failed.len() <= 1_024 && failed.len() > 1_000 && failed.ends_with(",..."),
            "{failed}"
        );
    }
}
