use inferbench_crds::{factor::Level, spec::Engine};

use super::*;

#[test]
fn the_load_of_a_combination_says_how_requests_come() {
    let with = |change: fn(&mut Combination)| {
        let mut combination = Combination {
            engine: Engine::default(),
            ..Combination::default()
        };
        change(&mut combination);
        arrivals(&combination, 7)
    };
    assert_eq!(with(|_| ()), None);
    assert_eq!(
        with(|one| one.search = Some(inferbench_results::fixtures::search())),
        None
    );
    assert_eq!(
        with(|one| one.concurrency = 8),
        Some(Arrivals::Closed { streams: 8 })
    );
    let rate = with(|one| {
        if let Level::Number(number) = Level::parse("2.5") {
            one.request_rate = number;
        }
    });
    assert_eq!(
        rate,
        Some(Arrivals::Open {
            per_second: 2.5,
            seed: 7,
            most: MAX_OPEN
        })
    );
}
