package schemas

// Example loses every twentieth question to memory.
func (*FaultRule) Example() *FaultRule {
	return &FaultRule{Kind: FaultDrop, Subject: "inf.v1.memory.reserve.>", Probability: 0.05}
}

// Example is a plan of one rule.
func (*FaultPlan) Example() *FaultPlan {
	return &FaultPlan{Seed: 7, Rules: []FaultRule{*(*FaultRule)(nil).Example()}}
}

// Example switches the example plan on.
func (*FaultsRequest) Example() *FaultsRequest {
	return &FaultsRequest{Plan: (*FaultPlan)(nil).Example()}
}

// Example is a node that has lost one message.
func (*FaultsState) Example() *FaultsState {
	return &FaultsState{Node: "node-7f3a", On: true, Seed: 7, Rules: []FaultRuleState{*(*FaultRuleState)(nil).Example()},
		Recent: []InjectedFault{*(*InjectedFault)(nil).Example()}}
}

// Example has hit one of eleven messages.
func (*FaultRuleState) Example() *FaultRuleState {
	return &FaultRuleState{Rule: *(*FaultRule)(nil).Example(), Messages: 11, Faults: 1}
}

// Example is a lost question to memory.
func (*InjectedFault) Example() *InjectedFault {
	return &InjectedFault{Kind: FaultDrop, Subject: "inf.v1.memory.reserve.replica0", Message: 9}
}
