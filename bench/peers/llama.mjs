// llama.cpp as a peer, through the prebuilt binary of node-llama-cpp. One JSON request a line on stdin, one answer a line
// on stdout. Times are llama.cpp's own ("prompt eval time", "eval time"): what JavaScript adds is not in them.
//   node llama.mjs MODEL THREADS CONTEXT
//   {"ids": [...], "new": N} -> {"prompt": seconds, "decode": seconds for N tokens, "wall": seconds, "tokens": [...]}
import { createInterface } from "node:readline";
import { getLlama, LlamaLogLevel } from "node-llama-cpp";

const [modelPath, threads, contextSize] = [process.argv[2], Number(process.argv[3]), Number(process.argv[4])];
let log = [];
const llama = await getLlama({
    gpu: false,
    build: "never",
    progressLogs: false,
    // One more than the library would take for itself where it keeps a core for JavaScript.
    maxThreads: threads,
    logLevel: LlamaLogLevel.info,
    logger: (level, message) => log.push(message),
});
const model = await llama.loadModel({ modelPath });
const context = await model.createContext({ contextSize, batchSize: 512, threads, performanceTracking: true });
const sequence = context.getSequence();

function timing(name) {
    const line = log.join("\n").split("\n").find((l) => l.includes(`print: ${name} time`) || l.includes(`print:        ${name} time`));
    const found = line && /=\s*([\d.]+) ms/.exec(line);
    if (!found)
        throw new Error(`llama.cpp printed no "${name} time"`);
    return Number(found[1]) / 1e3;
}

console.log(JSON.stringify({ release: llama.llamaCppRelease.release, threads: context.currentThreads, system: llama.systemInfo }));
for await (const line of createInterface({ input: process.stdin })) {
    const request = JSON.parse(line);
    await sequence.clearHistory();
    const tokens = [];
    const start = performance.now();
    for await (const token of sequence.evaluate(request.ids, { temperature: 0, yieldEogToken: true })) {
        tokens.push(token);
        // The first comes with the prompt.
        if (tokens.length > request.new)
            break;
    }
    const wall = (performance.now() - start) / 1e3;
    log = [];
    await context.printTimings();
    await new Promise((done) => setTimeout(done, 20));
    const answer = { prompt: timing("prompt eval"), decode: request.new > 0 ? timing("eval") : 0, wall, tokens };
    console.log(JSON.stringify(answer));
}
process.exit(0);
