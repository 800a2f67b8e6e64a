// Package reality holds the simulator to a live engine: the same requests at the same times through both, with step
// costs that are measured in the same run, between the loads that are compared.
package reality
