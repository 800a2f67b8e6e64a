// Package cuda is the device that runs on an NVIDIA GPU.
//
// It needs no C compiler and no CUDA toolkit, neither to build nor to run: the driver (libcuda)
// and the run-time compiler (NVRTC) are loaded when a device is opened, and the kernels, CUDA
// C++ in kernels/*.cu without any header, are compiled for the GPU that is found and kept on
// disk under a hash of all that went into them. Without a driver, Open fails with
// gpu.ErrNotSupported and says where it looked; [Probe] tells the same without opening.
//
// Activations and KV are float32 or, on request, bfloat16, and logits float32; weights keep the type
// they were stored in and are widened in registers. A row of output has the same bits whatever else is
// in the launch: each kernel states the order of its sums, and no order depends on the size of the batch.
// Products of many tokens in bfloat16, by cuBLASLt, are the exception.
//
// A device has one context, one stream and one executor at a time. CUDA's current context
// belongs to an OS thread and a goroutine may change threads, so every call holds its thread and
// makes the context current first (about 0.1 µs). That leaves the executor free to be any
// goroutine; a thread of the device's own would cost a channel hop per launch.
//
// Read it in this order: probe.go and driver.go (what is loaded), compile.go (kernels),
// device.go, memory.go, staging.go (memory and copies), launch.go (operations), then the files
// in kernels, where the work is.
//
// Step 7. In: op launches from actors/compute through gpu.Device. Out: tokens and logits in
// device memory. Next: none.
package cuda
