package cpu_test

import (
	"fmt"

	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/gpu/cpu"
)

// An alternative kernel is a function; registered under a name, it is one more implementation
// that anyone can select at run time.
func ExampleDevice_Register() {
	d, err := cpu.Open(cpu.Options{Threads: 1})
	if err != nil {
		panic(err)
	}
	defer d.Close()
	d.Register(gpu.OpAdd, "logged", "prints its size", func(d *cpu.Device, args any) error {
		a := args.(*gpu.Add)
		x, y, out := d.Float32s(a.A), d.Float32s(a.B), d.Float32s(a.Out)
		fmt.Println("adding", len(out), "elements")
		for i := range out {
			out[i] = x[i] + y[i]
		}
		return nil
	})
	if err := d.Select(gpu.OpAdd, "logged"); err != nil {
		panic(err)
	}
	t, err := d.Alloc(gpu.F32, 3)
	if err != nil {
		panic(err)
	}
	defer d.Free(t)
	if err := d.Launch(gpu.OpAdd, &gpu.Add{Out: t, A: t, B: t}); err != nil {
		panic(err)
	}
	for _, im := range d.Implementations(gpu.OpAdd) {
		fmt.Println(im.Name, im.Active)
	}
	// Output:
	// adding 3 elements
	// go false
	// logged true
}
