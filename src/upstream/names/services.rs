//! What the records of a service say about its servers (RFC 2782): whom to ask first, and how much.

use super::resolver::Service;
use crate::upstream::entries::Find;

/// The largest weight that a server can have.
const HEAVIEST: u32 = 1000;

/// The lowest priority is asked; the others are for when nobody of it can be. Weights keep their proportions; a weight
/// of 0, which RFC 2782 has for servers that hardly get anything, is the smallest that still gets some: here 0 would mean
/// a server that drains.
pub fn finds(services: &[Service]) -> Vec<Find> {
    let first = services.iter().map(|service| service.priority).min().unwrap_or_default();
    let heaviest = services.iter().map(|service| u32::from(service.weight)).max().unwrap_or_default();
    let scaled = |weight: u16| {
        let weight = u32::from(weight);
        if heaviest > HEAVIEST { (weight * HEAVIEST).div_ceil(heaviest).max(1) } else { weight.max(1) }
    };
    // One that stands there twice, with two priorities or weights, counts by the better one.
    let mut sorted: Vec<_> = services.iter().collect();
    sorted.sort_by_key(|service| (service.priority, std::cmp::Reverse(service.weight)));
    let mut finds: Vec<Find> = Vec::with_capacity(sorted.len());
    for service in sorted {
        let same = |find: &Find| matches!(find, Find::Target { host, port, .. } if *host == service.target && *port == service.port);
        if !finds.iter().any(same) {
            finds.push(Find::Target {
                host: service.target.clone(),
                port: service.port,
                weight: scaled(service.weight),
                backup: service.priority != first,
            });
        }
    }
    finds
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(priority: u16, weight: u16, target: &str) -> Service {
        Service { priority, weight, port: 9000, target: target.to_owned() }
    }

    fn weights(services: &[Service]) -> Vec<(String, u32, bool)> {
        let told = finds(services).into_iter().map(|find| match find {
            Find::Target { host, weight, backup, .. } => (host, weight, backup),
            Find::Address(address) => panic!("{address}"),
        });
        told.collect()
    }

    #[test]
    fn the_lowest_priority_is_asked_and_the_rest_is_for_when_it_cannot_be() {
        let told = weights(&[service(20, 5, "c"), service(10, 3, "a"), service(10, 1, "b"), service(30, 9, "d")]);
        let expected = [("a", 3, false), ("b", 1, false), ("c", 5, true), ("d", 9, true)];
        assert_eq!(told, expected.map(|(host, weight, backup)| (host.to_owned(), weight, backup)));
    }

    #[test]
    fn weights_keep_their_proportions_and_none_of_them_means_to_drain() {
        let told = |list: &[u16]| {
            let services: Vec<_> =
                list.iter().enumerate().map(|(n, weight)| service(1, *weight, &format!("s{n}"))).collect();
            let mut told: Vec<_> = weights(&services).into_iter().map(|(_, weight, _)| weight).collect();
            told.sort_unstable();
            told
        };
        assert_eq!(told(&[0, 0]), [1, 1]);
        assert_eq!(told(&[0, 10]), [1, 10]);
        assert_eq!(told(&[1000, 1]), [1, 1000]);
        assert_eq!(told(&[65535, 32768, 1]), [1, 501, 1000]);
    }

    #[test]
    fn a_server_that_stands_there_twice_is_one_server() {
        let told = weights(&[service(20, 5, "a"), service(10, 1, "a"), service(10, 3, "a")]);
        assert_eq!(told, [("a".to_owned(), 3, false)]);
    }
}
