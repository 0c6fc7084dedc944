// Loads a GGUF model (and a LoRA) with llama.cpp and prints the tokens of texts and greedy continuations as JSON, to be
// held against this program's. Never needed by CI. It wants npm install node-llama-cpp in the folder it is run from:
//   node tests/peers/llamacpp.mjs model.gguf [--lora adapter.gguf] [--tokens 24] "text" ...
//   node tests/peers/llamacpp.mjs model.gguf [--lora adapter.gguf] --probabilities 5,6,7    log-probabilities of every next token after each of these
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import path from "node:path";

const require = createRequire(path.join(process.cwd(), "package.json"));
const { getLlama, LlamaLogLevel } = await import(pathToFileURL(require.resolve("node-llama-cpp")).href);

const args = process.argv.slice(2);
const model = args.shift();
let lora, probabilities, count = 24;
const texts = [];
while (args.length > 0) {
    const arg = args.shift();
    if (arg === "--lora") lora = args.shift();
    else if (arg === "--probabilities") probabilities = args.shift().split(",").map(Number);
    else if (arg === "--tokens") count = Number(args.shift());
    else texts.push(arg);
}

const llama = await getLlama({ gpu: false, build: "never", logLevel: LlamaLogLevel.error });
const loaded = await llama.loadModel({ modelPath: model });
// fp32 all through: the default cache is fp16.
const exact = probabilities ? { flashAttention: false, experimentalKvCacheKeyType: "F32", experimentalKvCacheValueType: "F32" } : {};
const open = () => loaded.createContext({ contextSize: 256, batchSize: 64, threads: 1, ...exact, ...(lora ? { lora: { adapters: [{ filePath: lora, scale: 1 }] } } : {}) });
if (probabilities) {
    const context = await open();
    const options = { temperature: 1, topK: 0, topP: 1, minP: 0 };
    const results = await context.getSequence().controlledEvaluate(probabilities.map((id) => [id, { generateNext: { probabilities: true, options } }]));
    const rows = results.map((r) => {
        const row = [];
        for (const [id, p] of r.next.probabilities) row[id] = Math.log(p);
        return row;
    });
    // The process must not end before a pipe has taken all of it.
    await new Promise((done) => process.stdout.write(JSON.stringify({ logProbabilities: rows }) + "\n", done));
}
for (const text of texts) {
    const context = await open();
    const sequence = context.getSequence();
    const ids = loaded.tokenize(text);
    const made = [];
    for await (const token of sequence.evaluate(ids, { temperature: 0 })) {
        made.push(token);
        if (made.length >= count) break;
    }
    console.log(JSON.stringify({ text, ids, tokens: made, made: loaded.detokenize(made) }));
    await context.dispose();
}
process.exit(0);
