//! Profiles: how much is measured.

use std::time::Duration;

use anyhow::{Result, bail};

/// Profile.
#[derive(Clone, Debug)]
pub struct Profile {
    /// Name.
    pub name: &'static str,
    /// Numbers of customers without a database that are created and deleted at once.
    pub fan_out: &'static [usize],
    /// Customers without a database for changes and for idle time.
    pub standing: usize,
    /// Customers without a database that are created at once, more than in `fan_out`.
    pub burst: usize,
    /// Customers without a database: the first number, then the second in total. The cost of each must not depend on their number.
    pub large: Option<(usize, usize)>,
    /// Whole customers, with a database, a pool and a worker on a simulated node, that are made at once.
    pub whole: &'static [usize],
    /// Databases without customers that are created at once.
    pub databases: usize,
    /// Customers that Ahoi, the floor and the peers create for comparison.
    pub compare: usize,
    /// How often Ahoi, the floor and the parent alternate.
    pub rounds: usize,
    /// Whether slow scenarios of the peers are measured: kro with default limits, and restarts.
    pub thorough: bool,
    /// Numbers of requests in flight for the floor. The best result counts.
    pub floor: &'static [usize],
    /// Customers a second in the steady scenario, and toggles a second.
    pub rate: u32,
    /// Duration of the steady scenario.
    pub steady: Duration,
    /// Duration of idle time.
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
    /// Returns the profile with this name.
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
            // Scenarios with the same name would count as runs of one scenario.
            assert!(!profile.fan_out.contains(&profile.standing), "{}", profile.name);
        }
    }
}
