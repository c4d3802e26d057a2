// Writes the seed corpora: node fuzz/seeds.mjs DIR makes DIR/<target>/… .  Deterministic; no file of it is committed.
// Model files are those of tests/golden/fixtures, which make_models.py makes.
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { gzipSync } from 'node:zlib';

const out = process.argv[2];
if (!out) {
    console.error('usage: node fuzz/seeds.mjs DIR');
    process.exit(64);
}
const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const models = join(root, 'tests/golden/fixtures/models');

function seed(target, ...inputs) {
    mkdirSync(join(out, target), { recursive: true });
    inputs.forEach((input, i) => writeFileSync(join(out, target, `seed-${String(i).padStart(2, '0')}`), input));
}
const bytes = (first, text) => Buffer.concat([Buffer.from(first), Buffer.from(text)]);
const fixture = (pattern) =>
    readdirSync(models).filter((name) => pattern.test(name)).sort().map((name) => readFileSync(join(models, name)));

seed('json', '{}', '[1,-0.5e3,true,null,"\\ud83d\\ude00"]', '{"name":"m","path":"/srv/m"}',
    JSON.stringify({ name: 'milk', task: 'distill', dataset: 'milk', teacher: 'milk-teacher', layers: 3, heads: 3,
        init: 'teacher', layer_map: [1, 5, 11], optimizer: 'sgd', T: 4, alpha: 0.2, epochs: 60, batch_size: 32,
        max_length: 128, seed: 1, tags: ['milk'], notes: 'ü', priority: -1, precision: 'fp32', save_as: 'x' }),
    JSON.stringify({ task: 'finetune', dataset: 'd', layers: 1, heads: 2, hidden_size: 8, intermediate_size: 16,
        optimizer: { type: 'adamw', lr: 1e-3, weight_decay: 0.01, eps: 1e-8, beta1: 0.9, beta2: 0.999, warmup: 0.1,
            schedule: 'cosine', max_grad_norm: 1 }, hidden_act: 'gelu_new', lower_case: true, vocab_size: 100 }),
    JSON.stringify({ texts: ['a', 'b'], pairs: [['a', 'b']], dataset: 'd', split: 'dev' }));

const form = (boundary, ...parts) =>
    parts.map((part) => `--${boundary}\r\n${part}\r\n`).join('') + `--${boundary}--\r\n`;
const field = (name, value) => `Content-Disposition: form-data; name="${name}"\r\n\r\n${value}`;
const file = (name, filename, text) =>
    `Content-Disposition: form-data; name="${name}"; filename="${filename}"\r\nContent-Type: text/plain\r\n\r\n${text}`;
seed('multipart',
    bytes([0], 'multipart/form-data; boundary=x\n' + form('x', field('name', 'milk'), file('train', 'a.tsv', 'a\tb\n'))),
    bytes([7], 'multipart/form-data; boundary="a b"\nbefore\r\n' + form('a b', file('f', '..\\..\\x', '\r\n--a')) + 'after'),
    bytes([63], 'multipart/form-data; boundary=----WebKitFormBoundary7MA4YWxkTrZu0gW\n' +
        form('----WebKitFormBoundary7MA4YWxkTrZu0gW', field('a', ''), file('archive', '../../etc/passwd', '\0\0'))));

seed('router', 'GET\n/api/v1/experiments?status=queued,running&dataset=milk&tag=a&sort=-best_macro_f1&limit=5&q=%25\n' +
    'application/json;q=0.5, text/csv\nW/"a", "0123abcd"', 'POST\n/api/v1/experiments/12/cancel?pretty=1\n*/*;q=0\n*',
    'GET\n/api/v1/models/../../etc\n', 'GET\n/api/v1/models/%2e%2e%2fx/archive\n', 'DELETE\n/api/v1/datasets/a.b-c_d\n',
    'GET\n/api/v1/experiments/3/epochs/best/report?split=dev\ntext/plain', 'PATCH\n/api/v1/compare?ids=1,2,3\n',
    'GET\n/api/v1/datasets/milk/rows?split=dev&label=%E6%88%91&q=a+b&limit=500&cursor=abc\n',
    'POST\n/api/v1/sweeps?dry_run=true\n', 'GET\n/api/v1/experiments/1/predictions?epoch=3&wrong=1\n');

const jsonl = '{"text":"a b","label":"x"}\n{"text":"c","label":2}\n{"sentence":"d","pair":"e","label":"y"}\n';
seed('dataset', bytes([33], 'good text\t1\nbad one\t0\nlong enough\t1\n'), bytes([32], 'text\tlabel\na\tx\nb\ty\nc\tx\n'),
    bytes([34], 'label,text\r\n"x","a ""q"" \r\nb"\r\ny,plain\r\n'), bytes([35], jsonl), bytes([32], jsonl),
    bytes([45], 'text\tpair\tlabel\na\tb\tx\n'), bytes([17], '\ufefftext\nonly\n\n'), bytes([2], '"open\n'));

seed('tokenizer', bytes([7, 30], 'The caf\u00e9 isn\u2019t caf\u0065\u0301 \u6211\u4eec ABC abc.'),
    bytes([0, 2], '[MASK] a[SEP]b\u200d\ufffd\0\u0130I\u0307'),
    Buffer.concat([Buffer.from([3, 9]), Buffer.from('ab bc c'), Buffer.from([0xff]), Buffer.from('thing')]),
    bytes([5, 60], 'a'.repeat(130) + ' \u{1d400}\u{20000}'), Buffer.from([7, 8, 0xe2, 0x28, 0xa1, 0xf0, 0x90]));

const words = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', 'the', 'qu', '##ick', 'a'];
seed('vocab', bytes([0], words.join('\n') + '\n'), bytes([0], words.join('\r\n')),
    bytes([1], JSON.stringify({ added_tokens: [{ id: 0, content: '[PAD]', special: true }],
        normalizer: { type: 'BertNormalizer', clean_text: true, handle_chinese_chars: true, strip_accents: null,
            lowercase: true }, pre_tokenizer: { type: 'BertPreTokenizer' },
        model: { type: 'WordPiece', unk_token: '[UNK]', continuing_subword_prefix: '##', max_input_chars_per_word: 100,
            vocab: Object.fromEntries(words.map((word, i) => [word, i])) } })),
    bytes([2], '{"do_lower_case":false,"strip_accents":null,"tokenize_chinese_chars":true}'));

seed('config_json', ...fixture(/^config\.json$/), JSON.stringify({ architectures: ['BertForSequenceClassification'],
    model_type: 'bert', vocab_size: 30522, hidden_size: 768, num_hidden_layers: 12, num_attention_heads: 12,
    intermediate_size: 3072, hidden_act: 'gelu', max_position_embeddings: 512, type_vocab_size: 2, pad_token_id: 0,
    layer_norm_eps: 1e-12, initializer_range: 0.02, hidden_dropout_prob: 0.1, attention_probs_dropout_prob: 0.1,
    classifier_dropout: null, id2label: { 0: 'no', 1: 'yes' }, label2id: { no: 0, yes: 1 }, num_labels: 2 }));
seed('safetensors', ...fixture(/\.safetensors$/));
seed('pickle_zip', ...fixture(/zip|half|deflated|old_names/));
seed('pickle_legacy', ...fixture(/legacy/));

function tarEntry(name, text, type = '0', link = '') {
    const head = Buffer.alloc(512), body = Buffer.from(text);
    head.write(name, 0, 100);
    head.write('0000644\0' + '0000000\0' + '0000000\0', 100);
    head.write(body.length.toString(8).padStart(11, '0') + '\0' + '00000000000\0' + '        ' + type, 124);
    head.write(link, 157, 100);
    head.write('ustar\u000000', 257);
    const sum = head.reduce((total, byte) => total + byte, 0);
    head.write(sum.toString(8).padStart(6, '0') + '\0 ', 148);
    return Buffer.concat([head, body, Buffer.alloc((512 - (body.length % 512)) % 512)]);
}
const tar = (...entries) => Buffer.concat([...entries, Buffer.alloc(1024)]);
const good = tar(tarEntry('m/', '', '5'), tarEntry('m/config.json', '{}'), tarEntry('m/vocab.txt', 'a\n'));
seed('archive', good, gzipSync(good, { level: 9 }), tar(tarEntry('../x', 'a')), tar(tarEntry('/etc/x', 'a')),
    tar(tarEntry('link', '', '2', '/etc/passwd')), tar(tarEntry('hard', '', '1', 'config.json')),
    gzipSync(tar(tarEntry('zero', Buffer.alloc(1 << 16))), { level: 9 }), ...fixture(/state_zip|state_deflated/));

seed('config_file', '# comment\nlisten = 127.0.0.1:8080\ndata-dir = /var/lib/distilld\nworkers = 2\nthreads=4\n' +
    'model-root = /srv/a\nmodel-root = /srv/b\nmemory-limit = 8G\nmax-upload = 1M\nlog-level = debug\n' +
    'log-format = json\ntls-cert = /a\ntls-key = /b\nhosts = a.example\n', 'workers = two\n', 'listen\n',
    'data_dir = "quoted # not a comment"\n');
