// What ether_lite takes of a 32-bit heap: node lite_heap.mjs FOLDER-OF-MICROPYTHON FOLDER-OF-MPY; prints [import, instance].
// Garbage is collected between two calls only, when nothing of the VM is on the stack: so each look is a call of its own.
import fs from "node:fs";

const [wasm, compiled] = process.argv.slice(2);
const { loadMicroPython } = await import(`${wasm}/micropython.mjs`);
const mp = await loadMicroPython({ heapsize: 256 * 1024, stdout: (line) => console.log(line), linebuffer: true });
mp.FS.writeFile("/ether_lite.mpy", fs.readFileSync(`${compiled}/ether_lite.mpy`));

function run(code) {
    mp.runPython(code);
    for (let round = 0; round < 2; round += 1) mp.runPython("gc.collect()");
    mp.runPython("seen.append(gc.mem_alloc())");
}

mp.runPython("import gc, sys\nsys.path.insert(0, '/')\nseen = []");
run(`
import json, time

class Os:  # this one has no random numbers
    @staticmethod
    def urandom(count):
        return b"abcd"

sys.modules["os"] = Os
`);
run("import ether_lite");
run(`
class Bench:
    @ether_lite.ether_pub(topic="lab/temp", every=1.0, unit="degC", range=(-40, 125), type=float)
    def temperature(self):
        return 23.5

    @ether_lite.ether_sub(topic="lab/led", type=bool)
    def led(self, on):
        pass

bench = Bench()
`);
run(`device = ether_lite.Ether(bench, "bench1", "192.168.1.10")`);
mp.runPython("print([seen[1] - seen[0], seen[3] - seen[2]])");
