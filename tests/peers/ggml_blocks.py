# Makes a golden root with random blocks of every type and what ggml's C library makes of them, for
#   REPENG_GOLDEN=ROOT dotnet tests/Repeng.Runtime.Tests/.../Repeng.Runtime.Tests.dll -method '*BlocksDecode*'
# Never needed by CI. Usage: python3 tests/peers/ggml_blocks.py libggml-base.so golden/gguf/blocks.json ROOT
import ctypes, json, os, random, struct, sys

LIBRARY, LIST, ROOT = sys.argv[1:4]
random.seed(99)
L=ctypes.CDLL(os.path.abspath(LIBRARY))
src=json.load(open(LIST))
types=dict(src['types'])
os.makedirs(ROOT+'/gguf',exist_ok=True)
tens={}; 
def add(n,dt,shape,data): tens[n]=(dt,shape,data)
scalepos={'Q4_0':[0],'Q4_1':[0,2],'Q5_0':[0],'Q5_1':[0,2],'Q8_0':[0],'Q2_K':[80,82],'Q3_K':[108],'Q4_K':[0,2],'Q5_K':[0,2],'Q6_K':[208],'TQ1_0':[52],'TQ2_0':[64],'IQ2_XXS':[0],'IQ2_XS':[0],'IQ2_S':[0],'IQ3_XXS':[0],'IQ3_S':[0],'IQ1_S':[0],'IQ4_NL':[0],'IQ4_XS':[0],'Q1_0':[0],'Q2_0':[0]}
types['Q1_0']={"ggml_type":41,"block_size":128,"type_size":18,"package_can_encode":False}
types['Q2_0']={"ggml_type":42,"block_size":64,"type_size":18,"package_can_encode":False}
out={}
for t,f in types.items():
    if t in('F16','BF16'): continue
    be,bb=f['block_size'],f['type_size']
    nb=4096 if be==256 else 2048
    raw=bytearray(random.randbytes(nb*bb))
    for i in range(nb):
        o=i*bb
        for p in scalepos.get(t,[]):
            raw[o+p:o+p+2]=struct.pack('<e',random.choice([1,-1])*random.random()*2)
        if t=='IQ1_M':
            h=struct.unpack('<H',struct.pack('<e',random.random()))[0]
            for k in range(4):
                w=struct.unpack_from('<H',raw,o+48+2*k)[0]; w=(w&0xfff)|((h>>(4*k)&15)<<12); struct.pack_into('<H',raw,o+48+2*k,w)
    n=nb*be; buf=(ctypes.c_float*n)()
    nm='dequantize_row_'+(t.lower() if not t.endswith('_K') else t[:-1].lower()+'K')
    getattr(L,nm)(ctypes.create_string_buffer(bytes(raw),len(raw)),buf,ctypes.c_int64(n))
    add(f'{t}.raw','U8',[nb,bb],bytes(raw)); add(f'{t}.raw_dequant','F32',[nb,be],bytes(buf))
    g=dict(f)
    if f.get('package_can_encode'):
        # source: normal values; C encoder
        src=[random.gauss(0,1)*10**random.uniform(-3,2) if i%37==0 else random.gauss(0,0.05) for i in range(64*256)]
        a=(ctypes.c_float*len(src))(*src); ob=ctypes.create_string_buffer(len(src)//be*bb)
        getattr(L,'quantize_row_'+t.lower()+'_ref')(a,ob,ctypes.c_int64(len(src)))
        add(f'{t}.source','F32',[64,256],bytes(a)); add(f'{t}.encoded','U8',[64,256//be*bb],ob.raw)
        db=(ctypes.c_float*len(src))(); getattr(L,nm)(ob,db,ctypes.c_int64(len(src))); add(f'{t}.encoded_dequant','F32',[64,256],bytes(db))
    out[t]=g
off=0; hdr={}
blob=b''
parts=[]
for n,(dt,sh,d) in tens.items():
    hdr[n]={"dtype":dt,"shape":sh,"data_offsets":[off,off+len(d)]}; off+=len(d); parts.append(d)
h=json.dumps(hdr).encode(); h+=b' '*(-len(h)%8)
open(ROOT+'/gguf/blocks.safetensors','wb').write(struct.pack('<Q',len(h))+h+b''.join(parts))
json.dump({"types":out},open(ROOT+'/gguf/blocks.json','w'))
