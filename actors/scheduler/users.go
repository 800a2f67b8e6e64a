package scheduler

// usersMax bounds the idle users that a policy remembers: names come from outside.
const usersMax = 4096

// users keeps a T for each user with sequences in the engine, and for the usersMax that came most recently
// otherwise.
type users[T any] struct {
	of    map[string]*user[T]
	queue []string // each known user once; the front is forgotten first
}

type user[T any] struct {
	alive int // sequences in the engine
	of    T
}

// arrive counts a sequence of name and returns its entry; isNew says that nothing was known.
func (u *users[T]) arrive(name string) (entry *user[T], isNew bool) {
	if u.of == nil {
		u.of = map[string]*user[T]{}
	}
	entry = u.of[name]
	if entry == nil {
		u.forget()
		entry, isNew = &user[T]{}, true
		u.of[name] = entry
		u.queue = append(u.queue, name)
	}
	entry.alive++
	return entry, isNew
}

// leave ends what arrive began.
func (u *users[T]) leave(name string) {
	if entry := u.of[name]; entry != nil && entry.alive > 0 {
		entry.alive--
	}
}

// get is the entry of a user with sequences in the engine.
func (u *users[T]) get(name string) *T {
	if entry := u.of[name]; entry != nil {
		return &entry.of
	}
	return nil
}

// forget makes room for one more. Users with sequences in the engine stay, however many: they are bounded by the
// queue.
func (u *users[T]) forget() {
	for range len(u.queue) {
		if len(u.of) < usersMax {
			return
		}
		name := u.queue[0]
		u.queue = u.queue[1:]
		if u.of[name].alive > 0 {
			u.queue = append(u.queue, name)
			continue
		}
		delete(u.of, name)
	}
}
