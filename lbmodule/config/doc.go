// Package config has the settings of a load balancer as they are written down: their JSON, their defaults and ranges, what makes a
// set of them wrong, and what the rest goes by that follows from them. It sets nothing up.
package config
