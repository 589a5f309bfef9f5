//! How much is measured.

use std::time::Duration;

use anyhow::{Result, bail};

/// How much is measured.
#[derive(Clone, Debug)]
pub struct Profile {
    /// Its name.
    pub name: &'static str,
    /// Customers without a database that are made at once, and leave at once.
    pub fan_out: &'static [usize],
    /// Customers without a database that things happen to, or nothing.
    pub standing: usize,
    /// Customers without a database that are made at once, and more than any of these.
    pub burst: usize,
    /// Customers without a database that stay: so many, then so many in all. What each costs must not depend on how many there
    /// are.
    pub large: Option<(usize, usize)>,
    /// Whole customers, with a database, a way through the fleet and a worker on a simulated node, that are made at once.
    pub whole: &'static [usize],
    /// Databases without customers that are made at once.
    pub databases: usize,
    /// Customers that the suite, the floor and the peers make to be compared.
    pub compare: usize,
    /// How often the suite, the floor and the parent take turns.
    pub rounds: usize,
    /// Whether of the peers is measured what takes minutes, too: kro as it comes, and what each does at a restart.
    pub thorough: bool,
    /// How many requests the floor has in flight; the best counts.
    pub floor: &'static [usize],
    /// Customers a second in the steady scenario, and changes a second in the one with toggles.
    pub rate: u32,
    /// How long customers are made steadily.
    pub steady: Duration,
    /// How long nothing is done, to see what that costs.
    pub idle: Duration,
}

const SMOKE: Profile = Profile {
    name: "smoke",
    fan_out: &[10],
    standing: 5,
    burst: 20,
    large: Some((10, 20)),
    whole: &[5],
    databases: 10,
    compare: 10,
    rounds: 1,
    thorough: true,
    floor: &[16],
    rate: 4,
    steady: Duration::from_secs(5),
    idle: Duration::from_secs(15),
};

const QUICK: Profile = Profile {
    name: "quick",
    fan_out: &[200],
    standing: 50,
    burst: 400,
    large: None,
    whole: &[50],
    databases: 100,
    compare: 100,
    rounds: 1,
    thorough: false,
    floor: &[32],
    rate: 12,
    steady: Duration::from_secs(30),
    idle: Duration::from_secs(10),
};

const FULL: Profile = Profile {
    name: "full",
    fan_out: &[100, 500],
    standing: 1000,
    burst: 2000,
    large: Some((1000, 10_000)),
    whole: &[100],
    databases: 300,
    compare: 500,
    rounds: 4,
    thorough: true,
    floor: &[32, 64],
    rate: 12,
    steady: Duration::from_secs(300),
    idle: Duration::from_secs(120),
};

impl Profile {
    /// By its name.
    pub fn named(name: &str) -> Result<Profile> {
        match [SMOKE, QUICK, FULL].into_iter().find(|profile| profile.name == name) {
            Some(profile) => Ok(profile),
            None => bail!("a profile is one of: smoke, quick, full"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_has_a_name_of_its_own() {
        for profile in [SMOKE, QUICK, FULL] {
            // Two scenarios of one name would be taken for two runs of one.
            assert!(!profile.fan_out.contains(&profile.standing), "{}", profile.name);
        }
    }
}
