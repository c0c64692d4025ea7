// The networks of the containers. A bridge of ours where containers do not see one another; on the
// closed one, the default, a container also cannot begin a connection to anything: not to the
// internet, not to the host.
//
// Docker by itself has no such network: an `--internal` one publishes no ports and still lets
// containers reach the host's services at its gateway. So the closed bridge gets one rule of our
// own, in the table that every packet passes before it is routed (mangle, PREROUTING): what comes
// from the bridge and belongs to no connection that exists is dropped. Docker and firewalls leave
// that table alone; should somebody flush it, it is there again before the next start.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <set>
#include <string>

#include "orchestrator/runtime/docker_wire.h"

namespace bpg::runtime {

struct DockerNetwork {
    std::string name;
    std::string bridge;  ///< the interface
    bool open = false;   ///< containers may reach out
};

/// The network of this prefix. Pure.
DockerNetwork network_of(const std::string& prefix, bool open);

/// Makes the network unless it is there. Throws kConflict `network_foreign`.
asio::awaitable<void> ensure_network(DockerWire& wire, DockerNetwork network);
/// Removes the network; nothing when it is not there or not ours.
asio::awaitable<void> remove_network(DockerWire& wire, DockerNetwork network);

/// Puts the rule of a closed network in place unless it is there. Blocks (about 5 ms). Throws
/// kUnavailable `egress_not_closed`: better no branch than one that reaches out.
void ensure_closed(const DockerNetwork& network);
/// The same for the rule that lets nobody reach a container but through its published port: before
/// Docker 28 a neighbour with a route to the bridge's subnet could, whatever address it is
/// published on.
void ensure_published_only(const DockerNetwork& network);
/// Lets the host ask again soon who has a container's address. A client that connects while the
/// container starts makes it ask too early, and the kernel's next question comes after a second, in
/// which nobody reaches the new instance (arp(7), retrans_time_ms). Blocks; does what it can.
void hurry_address_lookups(const DockerNetwork& network);
/// Takes both rules away.
void forget_rules(const DockerNetwork& network);

}  // namespace bpg::runtime
