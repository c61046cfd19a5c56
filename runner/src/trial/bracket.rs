//! The search for the highest load at which something holds, as a pure decision over the tests so far: which load to test
//! next, and which bracket is known. It begins at the lowest load and doubles until one does not hold, then halves the
//! bracket by ratio until its ends are near enough, and tests both ends again: the load below was measured to hold and
//! the one above not to, each twice.
//!
//! Near the capacity a test may go either way. Where two tests of one load contradict each other, a third decides, and
//! the search goes on from what is known then; that they did is reported ([`Bracket::contradictions`]). The number of
//! tests is bounded all the same.

use inferbench_crds::search::Search;

/// Tests beyond those that a search without contradictions needs.
const SPARE: usize = 8;
/// Tests that have to agree on an end.
const AGREEING: u32 = 2;

/// The reason why a load is tested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To find the bracket, or to narrow it.
    Search,
    /// To see that an end of the bracket was no accident.
    Confirm,
    /// To decide where two tests contradict each other.
    Decide,
}

/// How a search ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SearchEnding {
    /// The bracket is narrow enough, and both of its ends were tested twice.
    Within,
    /// The highest load holds: the capacity is not below it.
    AtLeast,
    /// The lowest load does not hold: the capacity is below it.
    Below,
    /// As many loads were tested as may be.
    Steps,
}

/// The next step of a search.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Next {
    /// Test this load.
    Test(f64, Purpose),
    /// Nothing: this is the end.
    Done(SearchEnding),
}

/// A load that was tested, and how often it held and did not.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tested {
    /// The load.
    pub load: f64,
    /// Tests that held.
    pub held: u32,
    /// Tests that did not.
    pub failed: u32,
}

impl Tested {
    /// Whether it holds by most of its tests; none where they are as many on both sides.
    const fn holds(self) -> Option<bool> {
        if self.held == self.failed {
            None
        } else {
            Some(self.held > self.failed)
        }
    }

    /// Tests that agree with most of them.
    #[must_use]
    pub const fn agreeing(self) -> u32 {
        if self.held > self.failed {
            self.held
        } else {
            self.failed
        }
    }
}

/// The bracket of a search, and the tests that it rests on.
#[derive(Clone, Debug)]
pub struct Bracket {
    from: f64,
    to: f64,
    within: f64,
    is_whole: bool,
    most: usize,
    tests: usize,
    /// By load.
    tested: Vec<Tested>,
}

impl Bracket {
    /// One of which nothing is known.
    #[must_use]
    pub fn new(search: &Search) -> Self {
        Self {
            from: search.from.get(),
            to: search.to.get(),
            within: search.within(),
            is_whole: search.is_whole(),
            most: search.steps() as usize + SPARE,
            tests: 0,
            tested: Vec::new(),
        }
    }

    /// The most tests that there will be.
    #[must_use]
    pub const fn most(&self) -> usize {
        self.most
    }

    /// Takes note of a test.
    pub fn add(&mut self, load: f64, held: bool) {
        self.tests += 1;
        let at = self.tested.partition_point(|tested| tested.load < load);
        if self.tested.get(at).is_none_or(|tested| tested.load != load) {
            self.tested.insert(
                at,
                Tested {
                    load,
                    held: 0,
                    failed: 0,
                },
            );
        }
        let tested = &mut self.tested[at];
        if held {
            tested.held += 1;
        } else {
            tested.failed += 1;
        }
    }

    /// The lowest load that does not hold.
    #[must_use]
    pub fn high(&self) -> Option<Tested> {
        let mut tested = self.tested.iter().copied();
        tested.find(|tested| tested.holds() == Some(false))
    }

    /// The highest load below that which holds.
    #[must_use]
    pub fn low(&self) -> Option<Tested> {
        let high = self.high().map_or(f64::INFINITY, |high| high.load);
        let below = self.tested.iter().take_while(|tested| tested.load < high);
        below
            .copied()
            .filter(|tested| tested.holds() == Some(true))
            .last()
    }

    /// Loads that held in one test and did not in another, and those that hold above one that does not.
    #[must_use]
    pub fn contradictions(&self) -> Vec<Tested> {
        let high = self.high().map_or(f64::INFINITY, |high| high.load);
        let odd = |tested: &&Tested| tested.held > 0 && (tested.failed > 0 || tested.load > high);
        self.tested.iter().filter(odd).copied().collect()
    }

    /// The next step.
    #[must_use]
    pub fn next(&self) -> Next {
        if self.tests >= self.most {
            return Next::Done(SearchEnding::Steps);
        }
        let undecided = self.tested.iter().find(|tested| tested.holds().is_none());
        if let Some(undecided) = undecided {
            return Next::Test(undecided.load, Purpose::Decide);
        }
        let confirm = |end: Tested| {
            let few = end.agreeing() < AGREEING;
            few.then_some(Next::Test(end.load, Purpose::Confirm))
        };
        match (self.low(), self.high()) {
            (None, None) => Next::Test(self.from, Purpose::Search),
            (Some(low), None) if low.load >= self.to => {
                confirm(low).unwrap_or(Next::Done(SearchEnding::AtLeast))
            }
            (Some(low), None) => Next::Test((2.0 * low.load).min(self.to), Purpose::Search),
            (None, Some(high)) => confirm(high).unwrap_or(Next::Done(SearchEnding::Below)),
            (Some(low), Some(high)) => match self.middle(low.load, high.load) {
                Some(middle) => Next::Test(middle, Purpose::Search),
                // The lower end is last: its last test is what the trial's other figures are of.
                None => confirm(high)
                    .or_else(|| confirm(low))
                    .unwrap_or(Next::Done(SearchEnding::Within)),
            },
        }
    }

    /// The load to halve a bracket at; none where its ends are near enough.
    fn middle(&self, low: f64, high: f64) -> Option<f64> {
        if high <= low * (1.0 + self.within) || (self.is_whole && high - low <= 1.0) {
            return None;
        }
        let exact = (low * high).sqrt();
        if self.is_whole {
            return Some(exact.round().clamp(low + 1.0, high - 1.0));
        }
        // Six digits are read more easily than sixteen.
        let rounded = format!("{exact:.5e}").parse().unwrap_or(exact);
        Some(if rounded > low && rounded < high {
            rounded
        } else {
            exact
        })
    }
}

#[cfg(test)]
mod tests {
    use inferbench_crds::{factor::Number, search::Searched, splitmix::SplitMix64};
    use proptest::prelude::*;

    use super::*;

    fn search(factor: Searched, from: f64, to: f64, within: u32) -> Search {
        Search {
            factor,
            from: Number::new(from).unwrap(),
            to: Number::new(to).unwrap(),
            within: format!("{within}%"),
            share: "99%".into(),
        }
    }

    /// Searches; `holds` answers a load. The loads in their order, and the end.
    fn run(
        search: &Search,
        mut holds: impl FnMut(f64) -> bool,
    ) -> (Bracket, Vec<f64>, SearchEnding) {
        let mut bracket = Bracket::new(search);
        let mut loads = Vec::new();
        loop {
            match bracket.next() {
                Next::Done(ending) => return (bracket, loads, ending),
                Next::Test(load, _) => {
                    loads.push(load);
                    bracket.add(load, holds(load));
                }
            }
            assert!(loads.len() <= bracket.most(), "it does not end: {loads:?}");
        }
    }

    #[test]
    fn it_doubles_and_halves_and_tests_both_ends_again() {
        let rates = search(Searched::RequestRate, 1.0, 128.0, 10);
        let (bracket, loads, ending) = run(&rates, |load| load <= 10.5);
        assert_eq!(
            loads,
            [
                1.0, 2.0, 4.0, 8.0, 16.0, 11.3137, 9.51365, 10.3747, 11.3137, 10.3747
            ]
        );
        assert_eq!(ending, SearchEnding::Within);
        let ends = (bracket.low().unwrap(), bracket.high().unwrap());
        assert_eq!((ends.0.load, ends.0.held, ends.0.failed), (10.3747, 2, 0));
        assert_eq!((ends.1.load, ends.1.held, ends.1.failed), (11.3137, 0, 2));
        assert!(bracket.contradictions().is_empty());
    }

    #[test]
    fn whole_loads_end_as_neighbours() {
        let streams = search(Searched::Concurrency, 1.0, 100.0, 1);
        let (bracket, loads, ending) = run(&streams, |load| load <= 5.0);
        assert_eq!(loads, [1.0, 2.0, 4.0, 8.0, 6.0, 5.0, 6.0, 5.0]);
        assert_eq!(ending, SearchEnding::Within);
        assert_eq!(bracket.low().unwrap().load, 5.0);
    }

    #[test]
    fn both_borders_are_tested_twice_before_they_are_told() {
        let rates = search(Searched::RequestRate, 1.0, 12.0, 10);
        let (bracket, loads, ending) = run(&rates, |_| false);
        assert_eq!((loads, ending), (vec![1.0, 1.0], SearchEnding::Below));
        assert_eq!((bracket.low(), bracket.high().unwrap().failed), (None, 2));
        let (bracket, loads, ending) = run(&rates, |_| true);
        assert_eq!(
            (loads, ending),
            (vec![1.0, 2.0, 4.0, 8.0, 12.0, 12.0], SearchEnding::AtLeast)
        );
        assert_eq!((bracket.high(), bracket.low().unwrap().held), (None, 2));
    }

    #[test]
    fn a_third_test_decides_and_the_search_goes_on_from_there() {
        let streams = search(Searched::Concurrency, 1.0, 100.0, 1);
        // 6 fails once by accident, and holds when it is tested again, twice.
        let mut accidents = 1;
        let (bracket, loads, ending) = run(&streams, |load| {
            let accident = load == 6.0 && accidents > 0;
            accidents -= i32::from(accident);
            load <= 6.0 && !accident
        });
        assert_eq!(ending, SearchEnding::Within);
        assert_eq!(
            (bracket.low().unwrap().load, bracket.high().unwrap().load),
            (6.0, 7.0),
            "{loads:?}"
        );
        let told = bracket.contradictions();
        assert_eq!((told.len(), told[0].load, told[0].held), (1, 6.0, 2));
    }

    #[test]
    fn a_lowest_load_that_fails_by_accident_does_not_end_the_search() {
        let rates = search(Searched::RequestRate, 1.0, 16.0, 50);
        let mut tests = 0;
        let (bracket, _, ending) = run(&rates, |load| {
            tests += 1;
            tests > 1 && load < 3.0
        });
        assert_eq!(ending, SearchEnding::Within);
        assert!(bracket.low().unwrap().load < 3.0 && bracket.high().unwrap().load >= 3.0);
        assert_eq!(bracket.contradictions()[0].load, 1.0);
    }

    proptest! {
        #[test]
        fn without_noise_the_bracket_holds_the_truth(
            from in 0.001_f64..50.0, span in 1.01_f64..5_000.0, within in 1_u32..=100, truth in 0.0_f64..1.2, whole: bool,
        ) {
            let factor = if whole { Searched::Concurrency } else { Searched::RequestRate };
            let whole_of = |load: f64| if whole { load.ceil() } else { load };
            let (from, to) = (whole_of(from), whole_of(from * span).max(whole_of(from) + 1.0));
            let search = search(factor, from, to, within);
            // From below the lowest load to above the highest one, by ratio.
            let truth = from * 0.9 * (to / from * 1.2).powf(truth);
            let (bracket, loads, ending) = run(&search, |load| load <= truth);
            prop_assert!(loads.iter().all(|load| (from..=to).contains(load)), "{:?}", loads);
            prop_assert!(loads.len() <= search.steps() as usize, "{} of {}: {:?}", loads.len(), search.steps(), loads);
            prop_assert!(bracket.contradictions().is_empty());
            let (low, high) = (bracket.low(), bracket.high());
            match ending {
                SearchEnding::Within => {
                    let (low, high) = (low.unwrap(), high.unwrap());
                    prop_assert!(low.load <= truth && truth < high.load);
                    prop_assert!((low.held, low.failed, high.held, high.failed) == (2, 0, 0, 2));
                    let near = high.load <= low.load * (1.0 + f64::from(within) / 100.0);
                    prop_assert!(near || (whole && high.load - low.load <= 1.0));
                }
                SearchEnding::AtLeast => prop_assert!(truth >= to && low.unwrap().load == to && high.is_none()),
                SearchEnding::Below => prop_assert!(truth < from && high.unwrap().load == from && low.is_none()),
                SearchEnding::Steps => prop_assert!(false, "too many steps: {:?}", loads),
            }
        }

        /// Loads near the truth hold or not by chance.
        #[test]
        fn with_noise_it_ends_and_tells_what_contradicts(
            seed: u64, truth in 1.0_f64..100.0, noise in 0.0_f64..0.5, within in 1_u32..=50, whole: bool,
        ) {
            let factor = if whole { Searched::Concurrency } else { Searched::RequestRate };
            let search = search(factor, 1.0, 128.0, within);
            let mut random = SplitMix64::stream(seed, 0);
            let mut answers: Vec<(f64, bool)> = Vec::new();
            let (bracket, _, ending) = run(&search, |load| {
                let shift = noise * (f64::from(random.below(2_001)) / 1_000.0 - 1.0);
                let held = load <= truth * (1.0 + shift);
                answers.push((load, held));
                held
            });
            prop_assert!(answers.len() <= bracket.most());
            if let (Some(low), Some(high)) = (bracket.low(), bracket.high()) {
                prop_assert!(low.load < high.load);
            }
            if ending == SearchEnding::Within {
                let (low, high) = (bracket.low().unwrap(), bracket.high().unwrap());
                prop_assert!(low.held >= 2 && high.failed >= 2);
                // Beyond the noise everything is as without it.
                prop_assert!(low.load <= truth * (1.0 + noise) && high.load > truth * (1.0 - noise));
            }
            let both = |load: f64, way: bool| answers.contains(&(load, way));
            let told = bracket.contradictions();
            for (load, _) in &answers {
                if both(*load, true) && both(*load, false) {
                    prop_assert!(told.iter().any(|tested| tested.load == *load));
                }
            }
        }
    }
}
