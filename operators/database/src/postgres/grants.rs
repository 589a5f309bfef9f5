//! What an administrator has granted to a login and the spec does not define: memberships in other roles, and settings for all
//! databases. A rotation copies them to the next login. Pure.

use std::collections::BTreeSet;

use super::model::{Membership, Observed};
use super::names::{Names, TENANTS, is_role};
use super::step::{Step, name_of};

/// The steps that give the login what the other one, which it replaces, has.
pub fn steps(names: &Names, observed: &Observed) -> Vec<Step> {
    let role = |role: &String| observed.roles.get(role).cloned().unwrap_or_default();
    let (next, former) = (role(&names.login), role(&names.other));
    let login = || names.login.clone();
    let mut steps = Vec::new();
    let is_given = |(group, _): &(&String, &Membership)| !is_role(group) && *group != TENANTS;
    for (group, found) in next.member_of.iter().filter(is_given) {
        if former.member_of.get(group) != Some(found) {
            steps.push(Step::Leave { group: group.clone(), member: login() });
        }
    }
    for (group, given) in former.member_of.iter().filter(is_given) {
        if next.member_of.get(group) != Some(given) {
            steps.push(Step::Join { group: group.clone(), member: login(), membership: *given });
        }
    }
    for setting in next.own_settings.difference(&former.own_settings) {
        let parameter = name_of(setting);
        if former.own_settings.iter().all(|given| name_of(given) != parameter) {
            steps.push(Step::ResetEverywhere { login: login(), parameter: parameter.to_owned() });
        }
    }
    for setting in former.own_settings.difference(&next.own_settings) {
        let (parameter, value) = setting.split_once('=').unwrap_or((setting, ""));
        steps.push(Step::SetEverywhere { login: login(), parameter: parameter.to_owned(), value: value.to_owned() });
    }
    steps
}

/// The differences between the two logins that these steps would remove, in words.
pub fn explain(steps: &[Step]) -> String {
    let differences: BTreeSet<_> = steps
        .iter()
        .filter_map(|step| match step {
            Step::Join { group, .. } | Step::Leave { group, .. } => Some(format!("membership in {group}")),
            Step::SetEverywhere { parameter, .. } | Step::ResetEverywhere { parameter, .. } => {
                Some(format!("setting {parameter}"))
            }
            _ => None,
        })
        .collect();
    differences.into_iter().collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
