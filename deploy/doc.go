// Package deploy holds what it takes to run Troupe: a container file, Kubernetes manifests, a systemd unit. Its tests
// hold them to the program: flags, ports, probes and files that they name exist, and nothing runs with more rights
// than it needs.
package deploy
