package schemas

// Topic ties a message to the subjects on which actors announce it. Nobody answers, nobody may listen, and
// an announcement can be lost or repeated: a message carries what lets its receivers cope.
type Topic[T any] struct {
	Service string // of the actors that announce: "scheduler"
	Verb    string // what is announced: "load"
	Doc     string // one sentence
}

// Subject is where one instance announces, or, for the instance "", the pattern that matches all.
func (t Topic[T]) Subject(from Instance) string {
	if from == "" {
		from = "*"
	}
	return SubjectPrefix + t.Service + "." + t.Verb + "." + string(from)
}
